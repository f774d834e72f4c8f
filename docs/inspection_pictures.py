"""Trains the three runs of the page "Inspecting a model" and writes its pictures into ``docs/inspection``.

``python docs/inspection_pictures.py`` takes a few minutes on one core; ``--numbers`` prints what the page quotes. A seed
gives the same runs on the same machine, others may differ in the last digits.
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
from gymnasium.wrappers import TransformReward
from PIL import Image
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.inspection import InspectionReport, inspect_model

FOLDER = Path(__file__).with_name("inspection")
TASK = "MountainCarContinuous-v0"
N_STEPS, EARLY = 1_500, 600
COMMON = {"learning_starts": 350, "gamma": 0.995, "td_steps": 10, "ent_coef": 0.05, "seed": 0, "device": "cpu"}
DPI, N_COLORS = 100, 64
SHOWN = {
    "works": (
        "calibration_root", "overestimation", "model_error", "search_entropy", "search_gain", "decision_frame",
        "decision_box", "decision_tree", "episode_reward", "episode_value",
    ),
    "wrong_values": ("calibration_root", "overestimation", "model_error", "search_gain", "episode_value"),
    "no_reward": ("search_entropy", "decision_box", "episode_value"),
}  # fmt: skip
"""Pictures of each run."""


def task(**kwargs: str) -> gym.Env:
    """The car that must swing itself up a hill; a step costs what it pushes, the goal gives 100."""
    return gym.make(TASK, **kwargs)


def sparse_task(**kwargs: str) -> gym.Env:
    """The same without costs: there is no reward but the goal's."""
    return TransformReward(task(**kwargs), lambda reward: max(reward, 0.0))


class InspectEarly(BaseCallback):
    """Inspects once, before a run has learned.

    :param step: when
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step
        self.report: InspectionReport | None = None

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            self.report = inspect_model(self.model, task(render_mode="rgb_array"))
        return True


def reports() -> Iterator[tuple[str, InspectionReport]]:
    """The three runs: one that works, the same too early, and one without reward."""
    model = EfficientZeroV2("MlpPolicy", task(), gradient_steps=8, random_repeat=35, **COMMON)
    early = InspectEarly(EARLY)
    model.learn(N_STEPS, callback=early)
    yield "works", inspect_model(model, task(render_mode="rgb_array"))
    assert early.report is not None
    yield "wrong_values", early.report
    model = EfficientZeroV2("MlpPolicy", sparse_task(), random_repeat=1, **COMMON)
    yield "no_reward", inspect_model(model.learn(N_STEPS), sparse_task(render_mode="rgb_array"))


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
