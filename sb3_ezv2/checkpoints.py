"""Checkpoints: all that a run needs to go on as if it had never stopped, in one folder that is whole or not there.

``checkpoint_000012_36800_steps`` is the twelfth checkpoint of a folder, after 36,800 steps. It holds ``model.zip``,
``replay_buffer.pkl``, ``learning_state.bin``, ``environments.pkl``, ``normalization.pkl`` (with ``VecNormalize``) and
``manifest.json``, which is written last and has the checksums of the others.
"""

import hashlib
import json
import random
import re
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.common.array_files import ArrayReader, DamagedFileError, write_arrays
from sb3_ezv2.common.env_states import (
    NoEnvironmentState,
    environment_state,
    layer_names,
    normalization_state,
    restore_environment,
    restore_normalization,
)
from sb3_ezv2.common.files import new_folder, remove_folder, write_text
from sb3_ezv2.learning.exploration import RandomActions
from sb3_ezv2.learning.reanalyze import Reanalyzer
from sb3_ezv2.learning.statistics import DataStatistics
from sb3_ezv2.model_files import SavedAlgorithm
from sb3_ezv2.replay.saving import load_buffer, save_buffer

FORMAT_VERSION = 1
MODEL, BUFFER, LEARNING, ENVIRONMENTS, NORMALIZATION, MANIFEST = (
    *("model.zip", "replay_buffer.pkl", "learning_state.bin"),
    *("environments.pkl", "normalization.pkl", "manifest.json"),
)
KIND = "learning state"
NAME = re.compile(r"checkpoint_(\d+)_(\d+)_steps")

SelfCheckpointed = TypeVar("SelfCheckpointed", bound="CheckpointedAlgorithm")


class CheckpointedAlgorithm(SavedAlgorithm):
    """An algorithm that can be stopped anywhere and goes on from a checkpoint, bit for bit."""

    reanalyzer: Reanalyzer
    rng: np.random.Generator
    statistics: DataStatistics
    target_version: int
    random_actions: RandomActions

    def save_checkpoint(self, folder: str | Path, keep: int | None = None) -> Path:
        """Save everything that the run needs to go on: see :meth:`load_checkpoint`.

        :param folder: of the run's checkpoints; each is a folder in it, which appears as a whole
        :param keep: newest checkpoints of this run that stay, this one included; ``None`` for all
        :return: folder of this checkpoint
        :raises OSError: if it cannot be written; then the others are as they were
        :raises ValueError: if ``keep`` is less than 1
        """
        if keep is not None and keep < 1:
            raise ValueError(f"keep={keep} must be at least 1, or None to keep all checkpoints")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        number = max((_number(path) for path in checkpoints_in(folder)), default=0) + 1
        path = folder / f"checkpoint_{number:06d}_{self.num_timesteps}_steps"
        with new_folder(path) as place:
            self._write_checkpoint(place)
        if keep is not None:
            ours = [other for other in checkpoints_in(folder) if _run_of(other) == self.run_id]
            for other in ours[:-keep]:
                remove_folder(other)
        return path

    def _write_checkpoint(self, place: Path) -> None:
        self.save(place / MODEL)
        with open(place / BUFFER, "wb") as file:
            digest = save_buffer(self.replay_buffer, file)
        with open(place / LEARNING, "wb") as file:
            self._save_learning_state(file)
        env = self.env
        layers, reason = None, "the model has no environment"
        if env is not None:
            try:
                (place / ENVIRONMENTS).write_bytes(environment_state(env))
                layers = layer_names(env)
            except NoEnvironmentState as error:
                reason = str(error)
            statistics = normalization_state(env)
            if statistics is not None:
                (place / NORMALIZATION).write_bytes(statistics)
        files = {file.name: _file_facts(file) for file in sorted(place.iterdir()) if file.name != BUFFER}
        content = {
            "format_version": FORMAT_VERSION,
            "run_id": self.run_id,
            "num_timesteps": self.num_timesteps,
            "n_envs": self.n_envs,
            "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": {name: version(name) for name in ("sb3_ezv2", "stable_baselines3", "torch", "numpy")},
            "files": files | {BUFFER: {"digest": digest}},
            "environments": layers or f"not saved: {reason}",
        }
        write_text(place / MANIFEST, json.dumps({"content": content, "sha256": _digest_of(content)}, indent=1))

    @classmethod
    def load_checkpoint(
        cls: type[SelfCheckpointed], folder: str | Path, env: GymEnv, device: th.device | str = "auto", **kwargs: Any
    ) -> SelfCheckpointed:
        """Load a run where :meth:`save_checkpoint` left it.

        ``model.learn(remaining_steps, reset_num_timesteps=False)`` then gives bit for bit the run that was not stopped,
        on the same machine with the same versions. ``VecNormalize`` around ``env`` gets the saved statistics, and the
        environments themselves the saved state, in the middle of an episode too. Where their state could not be saved,
        a new episode begins, and a warning says so.

        The files hold pickles, which may execute anything: load only checkpoints that you trust.

        :param folder: of one checkpoint, or of several, of which the newest is loaded
        :param env: made as the environments of the run were, with the same wrappers
        :param device: see ``load``
        :param kwargs: further arguments of ``load``
        :raises FileNotFoundError: if there is no checkpoint
        :raises ValueError: if the checkpoint is damaged, its parts do not belong together or ``env`` does not fit
        """
        place = find_checkpoint(folder)
        manifest = read_manifest(place)
        vec_env = cls._wrap_env(env, kwargs.get("verbose", 0))
        if vec_env.num_envs != manifest["n_envs"]:
            raise ValueError(
                f"{place} was saved with n_envs={manifest['n_envs']}, env has {vec_env.num_envs}; make as many"
            )
        _check_files(place, manifest["files"])
        model = cls.load(place / MODEL, env=vec_env, device=device, force_reset=False, **kwargs)
        with open(place / BUFFER, "rb") as file:
            digest = manifest["files"][BUFFER]["digest"]
            model.replay_buffer = load_buffer(file, str(place / BUFFER), model.replay_buffer, digest)
        with open(place / LEARNING, "rb") as file:
            model._load_learning_state(ArrayReader(file, str(place / LEARNING), KIND))
        model._restore_environments(vec_env, place, manifest)
        return model

    def _restore_environments(self, env: VecEnv, place: Path, manifest: dict[str, Any]) -> None:
        """Let the environments go on where they were, or let a new episode begin."""
        if (place / NORMALIZATION).exists():
            restore_normalization(env, (place / NORMALIZATION).read_bytes())
        layers = manifest["environments"]
        try:
            if isinstance(layers, str):
                raise NoEnvironmentState(layers)
            restore_environment(env, (place / ENVIRONMENTS).read_bytes(), layers)
        except NoEnvironmentState as error:
            warnings.warn(f"a new episode begins, {error}", stacklevel=3)
            self._last_obs = None
            # Otherwise the first episodes of the run would be repeated.
            env.seed(int(self.rng.integers(2**31)))

    def _save_learning_state(self, file: Any) -> None:
        """Write the generators and what is known of the targets."""
        cache, seen = self.reanalyzer.cache, self.statistics.observations
        kept = np.flatnonzero(cache.versions == self.target_version)
        generator, keys, place, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  # environments may draw from it
        arrays = {
            **{f"cache/{name}": [array[kept]] for name, array in cache.arrays().items()},
            "cache/slots": [kept],
            "statistics/mean": [seen.mean],
            "statistics/var": [seen.var],
            "updates": [self.policy.copies.generator.get_state().numpy()],
            "torch": [th.get_rng_state().numpy()],
            "numpy": [np.asarray(keys)],
        }
        for name, array in self.random_actions.arrays().items():
            arrays[f"random/{name}"] = [array]
        for name, array in self.reanalyzer.novelty.arrays().items():
            arrays[f"novelty/{name}"] = [array]
        content = {
            "rng": self.rng.bit_generator.state,
            "planning": self.policy.rng.bit_generator.state,
            "random": random.getstate(),
            "numpy": [generator, place, has_gauss, gauss],
            "statistics": seen.count,
            "cache_slots": len(cache.versions),
            "device": self.device.type,
            "stream_is_whole": self._stream_is_whole,
        }
        write_arrays(file, KIND, content, arrays)

    def _load_learning_state(self, reader: ArrayReader) -> None:
        content = reader.content
        found = {name: reader.read(name) for name in reader.names}
        reader.finish()
        self.rng.bit_generator.state = content["rng"]
        self.policy.rng.bit_generator.state = content["planning"]
        version, numbers, gauss = content["random"]
        random.setstate((version, tuple(numbers), gauss))
        name, *rest = content["numpy"]
        np.random.set_state((name, found["numpy"], *rest))  # noqa: NPY002
        th.set_rng_state(th.from_numpy(found["torch"]))
        if content["device"] == self.device.type:
            self.policy.copies.generator.set_state(th.from_numpy(found["updates"]))
        else:  # generators of different devices give different numbers
            self.policy.copies.seed(int(self.rng.integers(2**62)))
        for name, array in self.random_actions.arrays().items():
            array[:] = found[f"random/{name}"]
        self.reanalyzer.novelty.use(found["novelty/numbers"], found["novelty/references"])
        self._stream_is_whole, self._n_own_calls = content["stream_is_whole"], self._n_calls
        # The model's own copies of the statistics are rounded, and as old as its last refresh.
        seen = self.statistics.observations
        seen.mean, seen.var, seen.count = found["statistics/mean"], found["statistics/var"], content["statistics"]
        cache = self.reanalyzer.cache
        cache.clear()
        cache.reserve(content["cache_slots"])
        for name, array in cache.arrays().items():
            array[found["cache/slots"]] = found[f"cache/{name}"]


class ResumableCheckpointCallback(BaseCallback):
    """Saves a checkpoint every ``save_freq`` steps; see :meth:`CheckpointedAlgorithm.save_checkpoint`.

    :param save_freq: steps between two checkpoints, all environments together
    :param folder: of the checkpoints
    :param keep: newest checkpoints that stay; ``None`` for all
    :param verbose: 1 to print where each checkpoint is
    :raises ValueError: if ``save_freq`` or ``keep`` is less than 1
    """

    model: CheckpointedAlgorithm

    def __init__(self, save_freq: int, folder: str | Path, keep: int | None = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        for name, value in (("save_freq", save_freq), ("keep", keep)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        self.save_freq = save_freq
        self.folder = Path(folder)
        self.keep = keep
        self._last = 0

    def _on_training_start(self) -> None:
        self._last = self.model.num_timesteps

    def _on_step(self) -> bool:
        if self.num_timesteps // self.save_freq > self._last // self.save_freq:
            path = self.model.save_checkpoint(self.folder, self.keep)
            if self.verbose >= 1:
                print(f"Checkpoint: {path}")
        self._last = self.num_timesteps
        return True


def checkpoints_in(folder: str | Path) -> list[Path]:
    """All checkpoints of a folder, the oldest first; empty if there is no such folder."""
    folder = Path(folder)
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted((path for path in found if (path / MANIFEST).is_file()), key=_number)


def find_checkpoint(folder: str | Path) -> Path:
    """The folder itself if it is a checkpoint, else the newest checkpoint in it.

    :raises FileNotFoundError: if there is none
    """
    if (Path(folder) / MANIFEST).is_file():
        return Path(folder)
    found = checkpoints_in(folder)
    if not found:
        raise FileNotFoundError(f"there is no checkpoint in {folder}; save_checkpoint makes one")
    return found[-1]


def read_manifest(checkpoint: str | Path) -> dict[str, Any]:
    """What a checkpoint says about itself: run, steps, versions, files with their checksums.

    :param checkpoint: its folder
    :raises ValueError: if it is damaged, or of a later release
    """
    path = Path(checkpoint) / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        content = found["content"]
        whole = _digest_of(content) == found["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}; use another checkpoint") from error
    if not whole:
        raise DamagedFileError(f"{path} is damaged; use another checkpoint")
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{checkpoint} has the format version {content['format_version']}; this release reads {FORMAT_VERSION}"
        )
    return content


def _check_files(place: Path, files: dict[str, dict[str, Any]]) -> None:
    """Refuse files that are missing, damaged, or of another checkpoint; the replay buffer is checked as it is read."""
    for name, facts in files.items():
        if not (place / name).is_file():
            raise DamagedFileError(f"{place / name} is missing; use another checkpoint")
        if name != BUFFER and _file_facts(place / name) != facts:
            raise DamagedFileError(f"{place / name} is damaged or of another checkpoint; use another checkpoint")


def _file_facts(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(2**20):
            digest.update(data)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _number(checkpoint: Path) -> int:
    found = NAME.fullmatch(checkpoint.name)
    return int(found[1]) if found else 0


def _run_of(checkpoint: Path) -> str | None:
    """Run that a checkpoint belongs to; ``None`` if its manifest cannot be read."""
    try:
        return read_manifest(checkpoint)["run_id"]
    except ValueError:
        return None
