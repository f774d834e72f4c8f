"""Package definition of sb3_ezv2."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = (ROOT / "sb3_ezv2" / "version.txt").read_text().strip()
URL = "https://arxiv.org/abs/2403.00564"

# What learning, searching and the demo need; the last three draw the progress bar and the learning curve.
REQUIREMENTS = [
    "stable-baselines3>=2.9,<3",
    "gymnasium>=1.0",
    "torch>=2.3",
    "numba>=0.61",
    "numpy>=1.26",
    "scipy>=1.11",  # numba's matrix products are those of the BLAS in it
    "threadpoolctl>=3.1",  # and should have one thread
    "tqdm>=4.60",
    "rich>=12.0",
    "matplotlib>=3.7",
]

COMMANDS = ("train", "enjoy", "record_video", "plot", "push_to_hub", "load_from_hub")

EXTRAS = {
    "atari": ["ale-py>=0.10", "opencv-python-headless>=4.8"],
    # mujoco 4 renamed model fields that dm-control reads by their old names; dm-control's own requirement labmaze
    # has no wheel for Python 3.13, so the extra leaves dm-control out there.
    "dmc": ["shimmy>=2.0", "dm-control>=1.0.20; python_version < '3.13'", "mujoco>=3.1,<4"],
    "box2d": ["gymnasium[box2d]>=1.0"],
    "mujoco": ["gymnasium[mujoco]>=1.0", "mujoco>=3.1,<4"],
    # The zoo's hyperparameter search writes its report with pandas but does not install it; videos need moviepy, and
    # those of classic control pygame.
    "zoo": ["rl-zoo3>=2.9,<3", "pandas>=2.0", "moviepy>=1.0", "gymnasium[classic-control]>=1.0"],
    "docs": ["sphinx>=7.3", "myst-parser>=3.0", "furo>=2024.1.29"],
    "tests": [
        "pytest>=8.0",
        "pytest-cov>=5.0",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "ruff>=0.6",
        "mypy>=1.10",
        "tensorboard>=2.15",
        "pandas>=2.0",
        "setuptools>=77",
    ],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
# Only to compare the search with mctx; nothing else needs JAX.
EXTRAS["benchmarks"] = ["mctx>=0.0.5", "jax>=0.4.30"]

setup(
    name="sb3_ezv2",
    version=VERSION,
    description="EfficientZero V2 for Stable-Baselines3: planning with a learned model, for few environment steps.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The sb3_ezv2 authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords="reinforcement-learning model-based planning muzero efficientzero stable-baselines3 gymnasium pytorch",
    project_urls={"Paper": URL},
    packages=[*find_packages(include=["sb3_ezv2", "sb3_ezv2.*"]), "sb3_ezv2.hyperparams"],
    # The zoo looks for hyperparameters in the top folder; installed, they travel inside the package.
    package_dir={"sb3_ezv2.hyperparams": "hyperparams"},
    package_data={"sb3_ezv2": ["py.typed", "version.txt"], "sb3_ezv2.hyperparams": ["*.yml"]},
    entry_points={"console_scripts": [f"ezv2-{name.replace('_', '-')} = sb3_ezv2.{name}:main" for name in COMMANDS]},
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
