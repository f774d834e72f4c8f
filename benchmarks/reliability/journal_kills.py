"""Whether a journal loses a step: kill -9 at random moments, damaged files, and what writing costs.

``python -m benchmarks.reliability.journal_kills`` prints three tables and writes
``benchmarks/results/journal_kills.json``.

1. A small training process with a journal tells through a pipe, after the callback of every step has returned, what the
   step was. It is killed at a random moment. Every step that came through the pipe must be in the journal, equal to the
   last bit.
2. Bytes of journals, of the database or of the log beside it, are changed, wiped out or cut off at random places.
   Reading must give an error in one line, or the intact part with a warning, or all of it.
3. The callback alone is timed with the data of CartPole and of Atari.
"""

import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack

from benchmarks.records import RESULTS, new_record, write_record
from sb3_ezv2 import EfficientZeroV2, TrajectoryReplayBuffer, TransitionJournal
from sb3_ezv2.replay.journal import JournalWriter
from sb3_ezv2.replay.slots import TERMINATED, TRANSITION

RESULT = RESULTS / "journal_kills.json"
BUFFER_SIZE = 100_000
"""More than any of the processes collects, so that nothing is overwritten."""

DEFAULT_STEP_SECONDS = 0.025
"""Time of a step with the default settings on the machine of the stored results."""

MOST_STEPS = 300
"""Steps after which a process is killed at the latest; it begins to learn after 100."""

LONGEST_DELAY = 0.03
"""Seconds between the last of these steps and the kill at most, a few steps long."""

LOG_HEADER_BYTES, LOG_FRAME_BYTES = 32, 4_096 + 24
"""Of SQLite's write-ahead log."""

KINDS = ("vector", "image")
ATARI = spaces.Box(0, 255, (12, 96, 96), np.uint8)
CARTPOLE = spaces.Box(-5.0, 5.0, (4,))


class Noise(gym.Env):
    """Random images of bytes; episodes of up to 30 steps end in both ways."""

    observation_space = spaces.Box(0, 255, (1, 8, 8), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(**kwargs)
        return self._image(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Draw what comes next."""
        chance = self.np_random.random()
        return self._image(), float(self.np_random.normal()), chance < 1 / 30, 1 / 30 <= chance < 1 / 15, {}

    def _image(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (1, 8, 8)).astype(np.uint8)


def make_envs(kind: str) -> VecEnv:
    """Two environments with vectors, or one with stacked images."""
    if kind == "vector":
        return DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2)
    return VecFrameStack(DummyVecEnv([Noise]), 4)


# -- kills ---------------------------------------------------------------------------------------------------------


def transition_sums(buffer: TrajectoryReplayBuffer, env: int, newest: bool = False) -> list[str]:
    """Checksums of the transitions of an environment, with what came before and after and how the episode ended.

    :param newest: only of the newest one
    """
    rows = np.flatnonzero(buffer.kinds[:, env] == TRANSITION)[-1 if newest else 0 :]
    sums = []
    for row in rows:
        states = buffer.observations_at(np.array([row, row + 1]) * buffer.n_envs + env)
        end = buffer.kinds[row + 1, env]
        pieces = [states[key].tobytes() for key in sorted(states)]
        pieces += [buffer.actions[row, env].tobytes(), buffer.rewards[row, env].tobytes()]
        pieces.append(bytes([int(end == TERMINATED)]))
        sums.append(f"{zlib.crc32(b''.join(pieces)):08x}")
    return sums


class Confirm(BaseCallback):
    """Says on the standard output what has just been stored; comes after the journal."""

    def _on_step(self) -> bool:
        buffer = self.model.replay_buffer  # type: ignore[attr-defined]
        sums = (transition_sums(buffer, env, newest=True)[0] for env in range(buffer.n_envs))
        sys.stdout.write(f"{self.num_timesteps} {' '.join(sums)}\n")
        sys.stdout.flush()
        return True


def train_until_killed(kind: str, path: str) -> None:
    """What the process that is killed does."""
    network = {"latent_dim": 16, "hidden_dim": 16, "projection_dim": 16}
    model = EfficientZeroV2(
        "MlpPolicy",
        make_envs(kind),
        learning_starts=100,
        batch_size=8,
        n_simulations=4,
        buffer_size=BUFFER_SIZE,
        policy_kwargs=network,
        device="cpu",
    )
    while True:
        model.learn(1_000, callback=[TransitionJournal(path), Confirm()], reset_num_timesteps=False)


def kill(kind: str, path: Path, n_steps: int, delay: float) -> list[list[str]]:
    """Kill one process some seconds after so many steps; what it confirmed, by environment."""
    command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--child", kind, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(n_steps)]
        time.sleep(delay)
        process.kill()
        lines += process.stdout
    whole = [line.split()[1:] for line in lines if line.endswith("\n")]
    return [list(sums) for sums in zip(*whole, strict=True)]


def empty_buffer(kind: str) -> TrajectoryReplayBuffer:
    """A buffer that a journal of that kind fits."""
    envs = make_envs(kind)
    n_stack = 4 if kind == "image" else 1
    return TrajectoryReplayBuffer(
        BUFFER_SIZE, envs.observation_space, envs.action_space, envs.num_envs, n_stack=n_stack
    )


def count_losses(kind: str, path: Path, confirmed: list[list[str]]) -> Counter[str]:
    """Confirmed transitions, those of them that the journal does not give back, and those it has beyond them."""
    buffer, counts = empty_buffer(kind), Counter[str]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        buffer.add_journal(path)
    counts["warnings"] += len(caught)
    for env, expected in enumerate(confirmed):
        found = transition_sums(buffer, env)
        counts["confirmed"] += len(expected)
        counts["lost"] += sum((Counter(expected) - Counter(found)).values())
        counts["out of order"] += int(found[: len(expected)] != expected)
        counts["not yet confirmed"] += len(found) - len(expected)
    return counts


def measure_kills(n_kills: int, folder: Path, rng: random.Random) -> Counter[str]:
    """Kill processes, before and after they have begun to learn, and count what is lost."""
    counts = Counter[str]()
    for number in range(n_kills):
        kind = KINDS[number % 2]
        path = folder / f"{kind}-{number}.sqlite"
        confirmed = kill(kind, path, rng.randrange(1, MOST_STEPS), rng.uniform(0.0, LONGEST_DELAY))
        counts.update(count_losses(kind, path, confirmed))
        counts["kills"] += 1
        print(f"\r{dict(counts)}", end="", flush=True)
    print()
    return counts


# -- damage --------------------------------------------------------------------------------------------------------


def damage(path: Path, rng: random.Random) -> str:
    """Change a file at random; what was done."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    what = rng.choice(("bit", "byte", "zeros", "noise", "cut"))
    if what == "bit":
        data[place] ^= 1 << rng.randrange(8)
    elif what == "byte":
        data[place] = rng.randrange(256)
    elif what == "cut":
        del data[place:]
    else:
        length = min(rng.choice((16, 512, 4_096)), len(data) - place)
        data[place : place + length] = bytes(length) if what == "zeros" else rng.randbytes(length)
    path.write_bytes(data)
    return f"{what} at {place} of {path.suffix}"


def read_damaged(kind: str, path: Path, whole: list[list[str]]) -> str:
    """What reading a damaged journal leads to."""
    buffer = empty_buffer(kind)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            buffer.add_journal(path)
    except (ValueError, OSError) as error:
        return "refused" if str(path) in str(error) else f"error without the file's name: {error}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    found = [transition_sums(buffer, env) for env in range(buffer.n_envs)]
    invented = sum(sum((Counter(theirs) - Counter(ours)).values()) for theirs, ours in zip(found, whole, strict=True))
    if invented:
        return "CHANGED DATA"
    if found == whole:
        return "whole, with a warning" if caught else "whole"
    return "intact part, with a warning" if caught else "SILENTLY SHORT"


def measure_damage(n_damages: int, folder: Path, rng: random.Random) -> Counter[str]:
    """Damage journals of killed processes, with their log, and closed ones, and read them."""
    sources = []
    for kind in KINDS:
        killed = folder / f"damage-{kind}.sqlite"
        kill(kind, killed, MOST_STEPS, 0.0)
        closed = folder / f"closed-{kind}.sqlite"
        model = EfficientZeroV2("MlpPolicy", make_envs(kind), learning_starts=10_000, buffer_size=BUFFER_SIZE)
        model.learn(400, callback=TransitionJournal(closed))
        for path in (killed, closed):
            buffer = empty_buffer(kind)
            buffer.add_journal(path)
            sources.append((kind, path, [transition_sums(buffer, env) for env in range(buffer.n_envs)]))
    outcomes = Counter[str]()
    for number in range(n_damages):
        kind, source, whole = sources[number % len(sources)]
        path = folder / "damaged.sqlite"
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
            if suffix != "-shm" and Path(f"{source}{suffix}").exists():
                shutil.copy(f"{source}{suffix}", f"{path}{suffix}")
        log = Path(f"{path}-wal")
        done = damage(log if log.exists() and rng.random() < 0.7 else path, rng)
        outcome = read_damaged(kind, path, whole)
        cut = log.stat().st_size - LOG_HEADER_BYTES if log.exists() else 1
        if outcome == "SILENTLY SHORT" and done.startswith("cut") and cut % LOG_FRAME_BYTES == 0:
            outcome = "log cut exactly between two transactions, which is an earlier state"
        if outcome not in ("refused", "whole", "whole, with a warning", "intact part, with a warning"):
            print(f"{source.name}: {done}: {outcome}")
        outcomes[outcome.split(":")[0]] += 1
    return outcomes


# -- cost ----------------------------------------------------------------------------------------------------------


def measure_cost(n_steps: int, folder: Path, space: spaces.Box, n_stack: int) -> dict[str, float]:
    """Seconds that writing one step takes, and the bytes it needs on the disk."""
    rng = np.random.default_rng(0)
    buffer = TrajectoryReplayBuffer(n_steps + 2, space, spaces.Discrete(2), n_stack=n_stack)
    path = folder / f"cost-{n_stack}.sqlite"
    writer = JournalWriter(path, buffer)
    writer.begin("cost")
    observation, seconds = np.stack([space.sample()]), []
    for step in range(n_steps):
        following = np.stack([space.sample()])
        if n_stack > 1:
            n_channels = space.shape[0] // n_stack
            following[:, :-n_channels] = observation[:, n_channels:]
        infos = [{"terminal_observation": following[0]}]
        buffer.add(observation, following, rng.integers(2, size=1), rng.normal(size=1), np.array([False]), infos)
        observation = following
        began = time.perf_counter()
        writer.write(step + 1)
        seconds.append(time.perf_counter() - began)
    writer.end()
    median, mean = statistics.median(seconds), statistics.mean(seconds)
    return {
        "median_seconds": median,
        "mean_seconds": mean,
        "largest_seconds": max(seconds),
        "median_share_of_a_default_step": median / DEFAULT_STEP_SECONDS,
        "mean_share_of_a_default_step": mean / DEFAULT_STEP_SECONDS,
        "bytes_per_step": path.stat().st_size / n_steps,
    }


def main() -> None:
    """Run all three parts, print and store what they show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--damages", type=int, default=60)
    parser.add_argument("--cost-steps", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", nargs=2, metavar=("KIND", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        train_until_killed(*arguments.child)
    rng = random.Random(arguments.seed)
    record = new_record("numpy", "stable-baselines3", "torch")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record["cost"] = {
            "CartPole": measure_cost(arguments.cost_steps, folder, CARTPOLE, 1),
            "96 x 96 RGB, stacks of 4": measure_cost(arguments.cost_steps, folder, ATARI, 4),
        }
        print(record["cost"])
        record["kills"] = dict(measure_kills(arguments.kills, folder, rng))
        record["damages"] = dict(measure_damage(arguments.damages, folder, rng))
        print(record["damages"])
    write_record(arguments.out, record)


if __name__ == "__main__":
    main()
