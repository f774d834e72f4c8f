"""Trains the three runs of the page "Inspecting a model" and writes its pictures into ``docs/inspection``.

``python docs/inspection_pictures.py`` takes a few minutes on one core. ``--numbers FOLDER`` also prints what the page
quotes and writes the whole pages. A seed gives the same runs on the same machine; others may round in another way.
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
from gymnasium.wrappers import TransformReward
from PIL import Image

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.inspection import InspectionReport, inspect_model

FOLDER = Path(__file__).with_name("inspection")
DPI, N_COLORS = 100, 64
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


def reports() -> Iterator[tuple[str, InspectionReport]]:
    """Three runs: one that works, one with wrong values (both with the settings of the zoo), one without reward."""
    common = {"seed": 0, "device": "cpu"}
    model = EfficientZeroV2("MlpPolicy", "CartPole-v1", gradient_steps=4, td_fresh=100, **common).learn(3_000)
    yield "works", inspect_model(model, "CartPole-v1")
    car = {"learning_starts": 350, "random_repeat": 35, "gamma": 0.995, "td_steps": 10, "ent_coef": 0.05}
    model = EfficientZeroV2("MlpPolicy", "MountainCarContinuous-v0", gradient_steps=8, **car, **common).learn(1_500)
    yield "wrong_values", inspect_model(model, "MountainCarContinuous-v0")
    model = EfficientZeroV2("MlpPolicy", without_reward(), **common).learn(1_500)
    yield "no_reward", inspect_model(model, without_reward(render_mode="rgb_array"))


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    for run, report in reports():
        figures = report.figures()
        for name in SHOWN[run]:
            stream = io.BytesIO()
            figures[name].savefig(stream, dpi=DPI)
            picture = Image.open(stream).convert("RGB").quantize(N_COLORS)
            picture.save(FOLDER / f"{run}_{name}.png", optimize=True)
        if "--numbers" in sys.argv:
            print(run, {name: float(f"{number:.4g}") for name, number in report.numbers().items()}, report.left_out)
            report.write(Path(sys.argv[-1], f"{run}.html"), figures)


if __name__ == "__main__":
    main()
