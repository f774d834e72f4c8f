"""An exported agent against the model it comes from: same decisions, size, time; onnxruntime with one thread.

``python -m benchmarks.speed.exported [--steps 1000] [--tasks CartPole-v1 catch]`` trains shortly on each task (vectors
and images, discrete and continuous actions), exports the agent with its whole search and compares both in 2,000 states
that the agent itself met. Tasks that are not named keep what is stored of them.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import numpy as np
import onnxruntime
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.learning.tasks import TASKS, policy_for
from benchmarks.records import RESULTS, new_record, read_record, write_record
from sb3_ezv2 import EfficientZeroV2


def states(model: EfficientZeroV2, n: int) -> np.ndarray:
    """Observations of ten environments that the agent explores."""
    env = model.get_env()
    assert env is not None
    seen, observations = [], env.reset()
    while len(seen) * env.num_envs < n:
        seen.append(observations)
        actions, _ = model.predict(observations, deterministic=False)
        observations, _, _, _ = env.step(actions)
    return np.concatenate(seen)[:n]  # type: ignore[arg-type]


def compare(model: EfficientZeroV2, n: int, search: bool) -> dict[str, Any]:
    """Export and run both."""
    observations = states(model, n)
    plan = model.policy.plan(observations, deterministic=True)
    with tempfile.TemporaryDirectory() as folder:
        path, begin = Path(folder) / "agent.onnx", time.perf_counter()
        model.export_onnx(path, search=search)
        found: dict[str, Any] = {"export_s": time.perf_counter() - begin, "bytes": path.stat().st_size}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rows, times = [], []
    for row in range(n):
        begin = time.perf_counter()
        rows.append(session.run(None, {"observation": observations[row : row + 1]}))
        times.append(time.perf_counter() - begin)
    found["median_ms"] = 1e3 * float(np.median(times))
    model.predict(observations[0], deterministic=True)
    times = []
    for row in range(200):
        begin = time.perf_counter()
        model.predict(observations[row], deterministic=True)
        times.append(time.perf_counter() - begin)
    found["predict_median_ms"] = 1e3 * float(np.median(times))
    if not search:
        return found
    selected = np.array([row[2][0] for row in rows])
    ours = (plan.candidates == plan.actions[:, None]).reshape(n, plan.candidates.shape[1], -1).all(2).argmax(1)
    same = selected == ours
    same_trees = np.array([(row[5][0] == plan.visit_counts[i]).all() for i, row in enumerate(rows)])
    errors = np.abs(np.array([row[1][0] for row in rows]) - plan.root_values) / np.abs(plan.root_values).mean()
    return found | {
        "states": n,
        "distinct_states": len(np.unique(observations.reshape(n, -1), axis=0)),
        "same_candidate": float(same.mean()),
        "same_visits": float(same_trees.mean()),
        "largest_value_error": float(errors[same_trees].max()),
        "share_of_values_within_1e-4": float((errors <= 1e-4).mean()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--states", type=int, default=2_000)
    parser.add_argument("--tasks", nargs="+", default=["CartPole-v1", "Pendulum-v1", "catch"], choices=TASKS)
    parser.add_argument("--out", type=Path, default=RESULTS / "exported.json")
    options = parser.parse_args(arguments)
    record: dict[str, Any] = new_record("torch", "numpy", "onnx", "onnxscript", "onnxruntime")
    record["tasks"] = read_record(options.out).get("tasks", {})
    for task in options.tasks:
        env = make_vec_env(TASKS[task].make_env, 10, seed=0)
        policy = policy_for(env.observation_space)
        model = EfficientZeroV2(policy, env, seed=0, device="cpu", gradient_steps=5).learn(options.steps)
        found = {kind: compare(model, options.states, kind == "search") for kind in ("search", "policy")}
        record["tasks"][task] = {
            "command": record["command"],
            "commit": record["commit"],
            "steps": options.steps,
            **found,
        }
        print(task, found, flush=True)
        write_record(options.out, record)


if __name__ == "__main__":
    main()
