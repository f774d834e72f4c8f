"""What the tests run under torchrun: ``rank_programs.py PART FOLDER``; every rank writes what it found to a file."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ezv2 import EfficientZeroV2, ResumableCheckpointCallback
from sb3_ezv2 import ranked_algorithm as ranked_algorithm_module
from sb3_ezv2.checkpoint_files import checkpoints_in
from sb3_ezv2.common import ranks as ranks_module
from sb3_ezv2.common.ranks import ALONE, ranks_of_process
from sb3_ezv2.learning.losses import tensor_batch
from sb3_ezv2.learning.updates import find_gradient
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import CONTINUOUS, parameters_of, tiny_model

TOTAL = 120
RANK = int(os.environ.get("RANK", "0"))
RESTARTS = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def fingerprint(model: EfficientZeroV2) -> str:
    """Of everything in the policy's state."""
    digest = hashlib.sha256()
    for name, value in sorted(parameters_of(model).items()):
        digest.update(name.encode() + value.tobytes())
    return digest.hexdigest()


def facts(model: EfficientZeroV2) -> dict[str, Any]:
    """What must agree on all ranks, and what must not."""
    return {
        "fingerprint": fingerprint(model),
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "episodes": model._episode_num,
        "logged": [info["l"] for info in model.ep_info_buffer],
        "run_id": model.run_id,
        "stored": len(model.replay_buffer),
        "batch": model.replay_buffer.sum_tree[1],
        "normalised": float(model.get_env().obs_rms.count),
        "first": model.replay_buffer.observations["observation"][0, 0].tolist(),
    }


def new_env() -> VecNormalize:
    return VecNormalize(make_vec_env("Pendulum-v1", 2))


def new_run() -> EfficientZeroV2:
    return tiny_model(new_env(), target_update_interval=7)


class SaveAndStop(BaseCallback):
    """Notes where it is called, saves a checkpoint at a step and stops there."""

    def __init__(self, step: int, folder: Path) -> None:
        super().__init__()
        self.step, self.folder = step, folder
        self.called = 0

    def _on_step(self) -> bool:
        self.called += 1
        if self.num_timesteps >= self.step:
            self.model.save_checkpoint(self.folder)
            return False
        return True


def gradients() -> dict[str, float]:
    """Largest difference between the gradient of a batch and that of the ranks' halves, and the gradient's norm."""
    ranks, found = ranks_of_process(), {}
    for name, action_space, ent_coef in (("discrete", None, 0.01), ("continuous", CONTINUOUS, 0.0)):
        model = tiny_model(RandomEnv(action_space=action_space), ent_coef=ent_coef).learn(40, log_interval=None)
        batch = model._sample()._replace(weights=np.linspace(0.1, 1.0, 4, dtype=np.float32))
        parts = ranks.gathered(tensor_batch(batch, model._reanalyze(batch), model.device))
        observations = {
            key: np.concatenate([part.observations[key] for part in parts]) for key in parts[0].observations
        }
        joined = [np.concatenate(arrays) for arrays in zip(*(part[1:] for part in parts), strict=True)]
        whole = type(parts[0])(
            {key: ranks_module.th.as_tensor(part) for key, part in observations.items()},
            *map(ranks_module.th.as_tensor, joined),
        )
        copies, settings = model.policy.copies, model.arguments.losses.update_settings()._replace(max_grad_norm=1e9)
        gradient = []
        for data, together in ((whole, ALONE), (parts[RANK], ranks)):
            logs = find_gradient(copies, data, settings, together).logs
            gradient.append(np.concatenate([p.grad.numpy().ravel() for p in copies.trained if p.grad is not None]))
        found |= {name: float(np.abs(gradient[0] - gradient[1]).max()), f"{name} norm": float(logs["grad_norm"])}
    return found


def refusals() -> dict[str, str]:
    """What every rank says to what cannot be learnt together."""
    other = RANK == 1
    versions = ranked_algorithm_module.version
    cases: dict[str, Callable[[], Any]] = {
        "argument": lambda: tiny_model(RandomEnv(), gamma=0.9 if other else 0.97),
        "seed": lambda: tiny_model(RandomEnv(), seed=RANK),
        "space": lambda: tiny_model(RandomEnv(action_space=spaces.Discrete(4) if other else None)),
        "environments": lambda: tiny_model(make_vec_env("CartPole-v1", 1 + RANK)),
        "version": lambda: tiny_model(RandomEnv()),
        "batch": lambda: tiny_model(RandomEnv(), batch_size=7),
        "steps": lambda: tiny_model(RandomEnv()),
    }
    found = {}
    for name, make in cases.items():
        if name == "version" and other:
            ranked_algorithm_module.version = lambda package: "0.0.1"  # type: ignore[assignment]
        try:
            make().learn(50 if name == "steps" and other else 40, log_interval=None)
        except (ValueError, SystemExit) as error:
            found[name] = f"{type(error).__name__}: {error}"
        ranked_algorithm_module.version = versions
    return found


def everything(folder: Path) -> dict[str, Any]:
    """A whole run, the same one stopped and resumed, gradients, and bad input."""
    found: dict[str, Any] = {"whole": facts(new_run().learn(TOTAL, log_interval=1))}
    callback = SaveAndStop(70, folder / "checkpoints")
    found["stopped"] = facts(new_run().learn(TOTAL, callback, log_interval=None))
    resumed = EfficientZeroV2.load_checkpoint(folder / "checkpoints", new_env(), device="cpu")
    resumed.learn(TOTAL - resumed.num_timesteps, reset_num_timesteps=False, log_interval=None)
    found |= {"resumed": facts(resumed), "calls": callback.called}
    resumed.save(folder / f"model_of_{RANK}")
    found["gradients"] = gradients()
    ranks_module.PATIENCE = 0.0
    found["refusals"] = refusals()
    return found


class Bomb(RandomEnv):
    """On the second rank the process dies, or hangs, in the 31st step of its first life."""

    n_steps, hangs = 0, False

    def step(self, action: Any) -> Any:
        self.n_steps += 1
        if RANK == 1 and RESTARTS == 0 and self.n_steps == 31:
            time.sleep(1000 if self.hangs else 0)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def restarted(folder: Path, env: RandomEnv | None = None) -> dict[str, Any]:
    """A run that goes on from its newest checkpoint, if it has one."""
    checkpoints = folder / "checkpoints"
    if checkpoints_in(checkpoints):
        model = EfficientZeroV2.load_checkpoint(checkpoints, env or Bomb(), device="cpu")
    else:
        model = tiny_model(env or Bomb())
    begin = model.num_timesteps
    model.learn(80 - begin, ResumableCheckpointCallback(20, checkpoints), reset_num_timesteps=False, log_interval=None)
    return {"begin": begin, "fingerprint": fingerprint(model), "num_timesteps": model.num_timesteps}


def hung(folder: Path) -> dict[str, Any]:
    """A run that never ends."""
    Bomb.hangs = True
    return restarted(folder)


def main() -> None:
    """Run one part."""
    part, folder = sys.argv[1], Path(sys.argv[2])
    found = {"everything": everything, "restarted": restarted, "hung": hung}[part](folder)
    if part == "everything":
        found["never killed"] = restarted(folder / "never_killed", RandomEnv())
    (folder / f"{part}_{RANK}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
