"""Trains the three runs of the page "Inspecting a model" and writes its pictures into ``docs/inspection``.

``python docs/inspection_pictures.py`` takes a few minutes on one core and prints what the page quotes. A folder behind
it keeps models and whole pages; models that are there already are not trained again, and names of runs behind that
draw these alone. A seed gives the same runs on the same machine; others may round in another way.
"""

import io
import sys
from pathlib import Path

import gymnasium as gym
from gymnasium.wrappers import TransformReward
from PIL import Image

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.inspection import InspectionReport, inspect_model

FOLDER = Path(__file__).with_name("inspection")
DPI, N_COLORS = 100, 128
SHOWN = {
    "works": (
        "calibration_root", "overestimation", "model_error", "search_entropy", "search_depth", "decision_frame",
        "decision_candidates", "decision_tree", "episode_value",
    ),
    "wrong_values": (
        "calibration_root", "overestimation", "model_error", "search_gain", "decision_box", "episode_reward",
        "episode_value",
    ),
    "no_reward": ("search_entropy", "decision_candidates", "episode_value"),
}  # fmt: skip
"""Pictures of each run."""


def without_reward(**kwargs: str) -> gym.Env:
    """MountainCar whose cost of every step, its only reward, was taken away."""
    return TransformReward(gym.make("MountainCar-v0", **kwargs), lambda reward: reward + 1.0)


RUNS = {
    "works": ("CartPole-v1", 3_000, {"gradient_steps": 4, "td_fresh": 100}),
    "wrong_values": ("MountainCarContinuous-v0", 1_000, {}),
    "no_reward": (without_reward, 1_500, {"novelty_coef": 0.0}),
}
"""Environment, steps and arguments; those of the first run are the zoo's."""


def inspected(run: str, models: Path | None) -> InspectionReport:
    """Train a run, unless its model is there, and inspect it.

    :param run: its name
    :param models: folder of the models, ``None`` to train and keep none
    """
    env, n_steps, arguments = RUNS[run]
    path = None if models is None else models / f"{run}.zip"
    if path is not None and path.is_file():
        model = EfficientZeroV2.load(path, device="cpu")
    else:
        made = env if isinstance(env, str) else env()
        model = EfficientZeroV2("MlpPolicy", made, seed=0, device="cpu", **arguments).learn(n_steps)
        if path is not None:
            model.save(path)
    return inspect_model(model, env if isinstance(env, str) else env(render_mode="rgb_array"))


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    models = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    for run in sys.argv[2:] or RUNS:
        report = inspected(run, models)
        figures = report.figures()
        for name in SHOWN[run]:
            stream = io.BytesIO()
            figures[name].savefig(stream, dpi=DPI)
            picture = Image.open(stream).convert("RGB").quantize(N_COLORS, method=Image.Quantize.FASTOCTREE)
            picture.save(FOLDER / f"{run}_{name}.png", optimize=True)
        print(run, {name: float(f"{number:.4g}") for name, number in report.numbers().items()}, report.left_out)
        if models is not None:
            report.write(models / f"{run}.html", figures)


if __name__ == "__main__":
    main()
