"""Package definition of sb3_ezv2."""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = (ROOT / "sb3_ezv2" / "version.txt").read_text().strip()
PAPER = "https://arxiv.org/abs/2403.00564"
REPOSITORY = os.environ.get("SB3_EZV2_REPOSITORY", "").rstrip("/")
"""Address of the public repository, given when a release is built; files are at ``/blob/v<version>/`` and
``/raw/v<version>/`` below it, as on GitHub and GitLab."""


def long_description() -> str:
    """The README as a package index shows it, where there are no files beside it.

    Links to files lead to the repository. Without its address they become plain text that names the file, which lies in
    the source distribution.
    """

    def absolute(link: re.Match[str]) -> str:
        picture, text, path = link.groups()
        if re.match(r"[a-z]+:|#", path):
            return link[0]
        if REPOSITORY:
            return f"{picture}[{text}]({REPOSITORY}/{'raw' if picture else 'blob'}/v{VERSION}/{path})"
        return f"({text}: `{path}` in the source distribution)" if picture else f"{text} (`{path}`)"

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"(!?)\[([^]]*)\]\(([^)\s]+)\)", absolute, readme)


# The lower bounds here and below are the oldest versions that were tried, together and with Python 3.11: make oldest.
# With ale-py 0.10 the frames of a decision are not those of the emulator; Stable-Baselines3 2.9 needs PyTorch 2.8.

# What learning, searching and the demo need; the last three draw the progress bar and the learning curve.
REQUIREMENTS = [
    "stable-baselines3>=2.9,<3",
    "gymnasium>=1.0",
    "torch>=2.8",
    "numba>=0.61",
    "numpy>=1.26",
    "scipy>=1.11",  # numba's matrix products are those of the BLAS in it
    "threadpoolctl>=3.1",  # and should have one thread
    "tqdm>=4.60",
    "rich>=12.0",
    "matplotlib>=3.7",
]

COMMANDS = ("train", "estimate", "enjoy", "record_video", "plot", "push_to_hub", "load_from_hub")

# What users of everything need; each extra works without the others.
EXTRAS = {
    "atari": ["ale-py>=0.11", "opencv-python-headless>=4.8"],
    # Named here, because Gymnasium's own extra asks for a Box2D that must be compiled, in its older releases.
    "box2d": ["box2d>=2.3.10", "gymnasium[classic-control]>=1.0"],
    # mujoco 4 renamed model fields that dm-control reads by their old names; dm-control's own requirement labmaze
    # has no wheel for Python 3.13, so the extra leaves dm-control out there.
    # shimmy's adapter imports Gymnasium's renderer, which imports imageio.
    "dmc": ["shimmy>=2.0", "dm-control>=1.0.20; python_version < '3.13'", "mujoco>=3.1,<4", "imageio>=2.28"],
    "mujoco": ["gymnasium[mujoco]>=1.0", "mujoco>=3.1,<4"],
    "offline": ["minari[hdf5]>=0.5"],
    "export": ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"],
    # What the zoo imports or runs and does not install itself: pandas for the report of a search for hyperparameters,
    # TensorBoard for -tb, seaborn for its plots, requests for the hub, moviepy and an ffmpeg for videos, pygame for the
    # pictures of classic control.
    "zoo": [
        "rl-zoo3>=2.9,<3",
        "pandas>=2.0",
        "tensorboard>=2.15",
        "seaborn>=0.13",
        "requests>=2.31",
        "moviepy>=2.0",
        "imageio>=2.28",
        "imageio-ffmpeg>=0.5",
        "gymnasium[classic-control]>=1.0",
    ],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

# What developers need. The tests try everything that users can install.
EXTRAS["tests"] = [
    *EXTRAS["all"],
    "pytest>=8.0",
    "pytest-cov>=5.0",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "ruff>=0.6",
    "mypy>=1.10",
    "setuptools>=77",
]
# The reference describes the zoo's modules, which import rl-zoo3.
EXTRAS["docs"] = [*EXTRAS["zoo"], "sphinx>=7.3", "myst-parser>=3.0", "furo>=2024.1.29", "ziamath>=0.11"]
# To compare the search with mctx, for which alone JAX is, and to learn small games from images.
EXTRAS["benchmarks"] = ["mctx>=0.0.5", "jax>=0.4.30", "minatar>=1.0.15", "minigrid>=3.0"]

setup(
    name="sb3_ezv2",
    version=VERSION,
    description="EfficientZero V2 for Stable-Baselines3: planning with a learned model, for few environment steps.",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="The sb3_ezv2 authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords="reinforcement-learning model-based planning muzero efficientzero stable-baselines3 gymnasium pytorch",
    project_urls={"Paper": PAPER, **({"Source": REPOSITORY} if REPOSITORY else {})},
    packages=[*find_packages(include=["sb3_ezv2", "sb3_ezv2.*"]), "sb3_ezv2.hyperparams"],
    # The zoo looks for hyperparameters in the top folder; installed, they travel inside the package.
    package_dir={"sb3_ezv2.hyperparams": "hyperparams"},
    package_data={"sb3_ezv2": ["py.typed", "version.txt"], "sb3_ezv2.hyperparams": ["*.yml"]},
    entry_points={
        "console_scripts": [
            "ezv2-inspect = sb3_ezv2.inspect_run:main",
            *(f"ezv2-{name.replace('_', '-')} = sb3_ezv2.{name}:main" for name in COMMANDS),
        ]
    },
    python_requires=">=3.10",
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
