"""``ezv2-record-video --plans``: candidates and value beside each frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common import vec_env
from stable_baselines3.common.vec_env import VecEnv, VecVideoRecorder

from sb3_ezv2.common.type_aliases import Plan
from sb3_ezv2.inspection.plan_frames import PlanPanel
from sb3_ezv2.policies import PlanningPolicy
from sb3_ezv2.zoo.replacing import replaced


class PlanRecorder(VecVideoRecorder):
    """SB3's recorder, whose frames show the plan that was made for them; parameters as there.

    :raises ValueError: if there are several environments
    """

    def __init__(self, venv: VecEnv, *args: Any, **kwargs: Any) -> None:
        self.recorded_frames = []  # which the base class looks at in the end, even if nothing began
        if venv.num_envs > 1:
            raise ValueError(f"--plans shows one environment, and there are {venv.num_envs}: leave out --n-envs")
        super().__init__(venv, *args, **kwargs)
        self.panel = PlanPanel()
        self.plan: tuple[Plan, np.ndarray] | None = None  # the newest, and its candidates in the environment's units

    def step_async(self, actions: np.ndarray) -> None:
        """Take a step; the newest frame is that of the state before it, and the newest plan that of the same state.

        :raises ValueError: if the model does not plan
        """
        if self.recording:
            if self.plan is None:
                raise ValueError("--plans shows what a search found, and this model does not search: leave it out")
            self.recorded_frames[-1] = self.panel.beside(self.recorded_frames[-1], *self.plan)
        super().step_async(actions)

    def _stop_recording(self) -> None:
        # There is no plan for the state behind the last step.
        self.recorded_frames = [frame for frame in self.recorded_frames if frame.shape == self.recorded_frames[0].shape]
        super()._stop_recording()


@contextmanager
def plans_beside_frames() -> Iterator[None]:
    """Inside, SB3's recorder of videos shows plans."""
    recorders: list[PlanRecorder] = []

    def make(*args: Any, **kwargs: Any) -> PlanRecorder:
        recorders.append(PlanRecorder(*args, **kwargs))
        return recorders[-1]

    search = PlanningPolicy.search

    def remembered(policy: PlanningPolicy, *args: Any, **kwargs: Any) -> Plan:
        plan = search(policy, *args, **kwargs)
        for recorder in recorders:
            recorder.plan = plan, policy.to_env_actions(plan.candidates[0])
        return plan

    with replaced(vec_env, "VecVideoRecorder", make), replaced(PlanningPolicy, "search", remembered):
        yield
