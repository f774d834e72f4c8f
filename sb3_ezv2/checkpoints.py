"""Checkpoints: all that a run needs to go on as if it had never stopped, in one folder that is whole or not there.

``checkpoint_000012_36800_steps`` is the twelfth checkpoint of a folder, after 36,800 steps. It holds ``model.zip``,
``replay_buffer.pkl``, ``learning_state.bin``, ``environments.pkl``, ``normalization.pkl`` (with ``VecNormalize``) and
``manifest.json``, which is written last and has the checksums of the others.
"""

import pickle
import random
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.checkpoint_files import (
    BUFFER,
    ENVIRONMENTS,
    FORMAT_VERSION,
    LEARNING,
    MODEL,
    NORMALIZATION,
    OF_RANKS,
    STREAM,
    check_files,
    file_facts,
    find_checkpoint,
    next_checkpoint,
    part_of,
    read_manifest,
    remove_older,
    write_manifest,
)
from sb3_ezv2.common.array_files import ArrayReader, write_arrays
from sb3_ezv2.common.env_states import (
    NoEnvironmentState,
    environment_state,
    layer_names,
    normalization_state,
    restore_environment,
    restore_normalization,
)
from sb3_ezv2.common.files import new_folder
from sb3_ezv2.common.ranks import ranks_of_process
from sb3_ezv2.learning.agreement import remember_normalization, together
from sb3_ezv2.learning.exploration import RandomActions
from sb3_ezv2.learning.reanalyze import Reanalyzer
from sb3_ezv2.learning.statistics import DataStatistics
from sb3_ezv2.model_files import SavedAlgorithm
from sb3_ezv2.replay.saving import load_buffer, save_buffer
from sb3_ezv2.replay.shards import divide, empty_shard

KIND = "learning state"
OF_STREAM = ("_last_obs", "_last_original_obs", "_last_episode_starts")
"""Attributes that say where a rank's environments stand; the first rank's are part of the model."""

SelfCheckpointed = TypeVar("SelfCheckpointed", bound="CheckpointedAlgorithm")


class CheckpointedAlgorithm(SavedAlgorithm):
    """An algorithm that can be stopped anywhere and goes on from a checkpoint, bit for bit."""

    reanalyzer: Reanalyzer
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
        if self.ranks.leads:
            self.ranks.order(folder, keep)
        self.ranks.enter("saving a checkpoint")
        folder = Path(folder)
        path = self._save_alone(folder) if self.ranks.size == 1 else self._save_together(folder)
        if keep is not None and self.ranks.rank == 0:
            remove_older(folder, self.run_id, keep)
        return path

    def _save_alone(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = next_checkpoint(folder, self.num_timesteps)
        with new_folder(path) as place:
            write_manifest(place, self._manifest([self._write_part(place)]))
        return path

    def _save_together(self, folder: Path) -> Path:
        """As :meth:`_save_alone`, each rank its own part; if one of them fails, there is no checkpoint.

        :raises OSError: on all ranks
        """
        ranks, path, failure, has_told = self.ranks, folder, "", False
        if ranks.rank > 0:
            told = ranks.gathered(None)[0]
            if told:
                ranks.gathered(self._tried_part(told))
        else:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path = next_checkpoint(folder, self.num_timesteps)
                with new_folder(path) as place:
                    has_told = bool(ranks.gathered(str(place)))
                    parts = ranks.gathered(self._tried_part(str(place)))
                    faults = [f"rank {rank}: {part}" for rank, part in enumerate(parts) if isinstance(part, str)]
                    if faults:
                        raise OSError("; ".join(faults))
                    write_manifest(place, self._manifest(parts))
            except OSError as error:
                failure = str(error)
                if not has_told:
                    ranks.gathered("")
        path, failure = ranks.gathered((path, failure))[0]
        if failure:
            raise OSError(f"no checkpoint was saved in {folder}: {failure}")
        return path

    def _tried_part(self, place: str) -> dict[str, Any] | str:
        """What :meth:`_write_part` returns, or why it failed."""
        try:
            if not Path(place).is_dir():
                return f"{place} is not there; checkpoints of several machines need a disk that all of them share"
            part = part_of(Path(place), self.ranks.rank)
            part.mkdir(exist_ok=True)
            return self._write_part(part)
        except OSError as error:
            return str(error)

    def _write_part(self, place: Path) -> dict[str, Any]:
        """Write the files of this rank; what the manifest says of them."""
        if self.ranks.rank == 0:
            self.save(place / MODEL)
        else:
            stream = {name: getattr(self, name) for name in OF_STREAM}
            (place / STREAM).write_bytes(pickle.dumps(stream))
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
        files = {file.name: file_facts(file) for file in sorted(place.iterdir()) if file.name in OF_RANKS - {BUFFER}}
        return {
            "files": files | {BUFFER: {"digest": digest}},
            "environments": layers or f"not saved: {reason}",
        }

    def _manifest(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """What a checkpoint says about itself.

        :param parts: of all ranks
        """
        content = {
            "format_version": FORMAT_VERSION,
            "run_id": self.run_id,
            "num_timesteps": self.num_timesteps,
            "n_envs": self.n_envs,
            "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": {name: version(name) for name in ("sb3_ezv2", "stable_baselines3", "torch", "numpy")},
            **parts[0],
        }
        return content if len(parts) == 1 else {**content, "other_ranks": parts[1:]}

    @classmethod
    def load_checkpoint(
        cls: type[SelfCheckpointed],
        folder: str | Path,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        **kwargs: Any,
    ) -> SelfCheckpointed:
        """Load a run where :meth:`save_checkpoint` left it.

        ``model.learn(remaining_steps, reset_num_timesteps=False)`` then gives bit for bit the run that was not stopped,
        on the same machine with the same versions. ``VecNormalize`` around ``env`` gets the saved statistics, and the
        environments themselves the saved state, in the middle of an episode too. Where their state could not be saved,
        a new episode begins, and a warning says so.

        The files hold pickles, which may execute anything: load only checkpoints that you trust.

        :param folder: of one checkpoint, or of several, of which the newest is loaded
        :param env: made as the environments of the run were, with the same wrappers; ``None`` to learn offline only
        :param device: see ``load``
        :param kwargs: further arguments of ``load``
        :raises FileNotFoundError: if there is no checkpoint
        :raises ValueError: if the checkpoint is damaged, its parts do not belong together or ``env`` does not fit
        """
        place = find_checkpoint(folder)
        manifest = read_manifest(place)
        parts = [{name: manifest[name] for name in ("files", "environments")}, *manifest.get("other_ranks", [])]
        vec_env = None if env is None else cls._wrap_env(env, kwargs.get("verbose", 0))
        ranks = ranks_of_process()
        if len(parts) != ranks.size:
            for rank, part in enumerate(parts):
                check_files(part_of(place, rank), part["files"])
            model = cls.load(place / MODEL, env=vec_env, device=device, **kwargs)
            model._divide_anew(place, parts, manifest["n_envs"])
            return model
        if vec_env is not None and vec_env.num_envs != manifest["n_envs"]:
            raise ValueError(
                f"{place} was saved with n_envs={manifest['n_envs']}, env has {vec_env.num_envs}; make as many"
            )
        ours, part = part_of(place, ranks.rank), parts[ranks.rank]
        check_files(ours, part["files"])
        model = cls.load(place / MODEL, env=vec_env, device=device, force_reset=False, **kwargs)
        with open(ours / BUFFER, "rb") as file:
            digest = part["files"][BUFFER]["digest"]
            model.replay_buffer = load_buffer(file, str(ours / BUFFER), model.replay_buffer, digest)
        with open(ours / LEARNING, "rb") as file:
            model._load_learning_state(ArrayReader(file, str(ours / LEARNING), KIND))
        if (ours / STREAM).exists():
            vars(model).update(pickle.loads((ours / STREAM).read_bytes()))
        if vec_env is not None:
            model._restore_environments(vec_env, ours, part)
        return model

    def _divide_anew(self, place: Path, parts: list[dict[str, Any]], n_envs: int) -> None:
        """Go on from a checkpoint of another number of ranks.

        Each rank takes its part of all pieces of trajectories; the environments begin new episodes.

        :param place: the checkpoint
        :param parts: what its manifest says of the ranks it was saved by
        :param n_envs: environments that each of them had
        """
        ranks, buffers, seen = self.ranks, [], []
        for rank, part in enumerate(parts):
            path = part_of(place, rank) / BUFFER
            with open(path, "rb") as file:
                digest = part["files"][BUFFER]["digest"]
                buffers.append(load_buffer(file, str(path), empty_shard(self.replay_buffer, n_envs), digest))
            path = part_of(place, rank) / LEARNING
            with open(path, "rb") as file:
                reader = ArrayReader(file, str(path), KIND)
                found = {name: reader.read(name) for name in reader.names}
                reader.finish()
            seen.append((found["statistics/mean"], found["statistics/var"], reader.content["statistics"]))
            if rank == 0:
                self.reanalyzer.novelty.use(found["novelty/numbers"], found["novelty/references"])
                self.rng.bit_generator.state = reader.content["rng"]
        divide(buffers, self.replay_buffer, ranks.rank, ranks.size)
        own = self.statistics.observations = RunningMeanStd(shape=seen[0][0].shape)
        if ranks.rank == 0:
            own.mean, own.var, own.count = together(seen)
        env, self._last_obs = self.env, None
        # Other random numbers than those of the run so far, and others on every rank.
        self.rng = np.random.default_rng([ranks.rank, *self.rng.integers(2**31, size=4)])
        self.policy.seed_planning(int(self.rng.integers(2**31)))
        if env is not None:
            if (place / NORMALIZATION).exists():
                restore_normalization(env, (place / NORMALIZATION).read_bytes())
                remember_normalization(self.normalizer)
            env.seed(int(self.rng.integers(2**31)))
        if ranks.rank == 0:
            text = f"{place} was saved by {len(parts)} ranks and goes on with {ranks.size}: the replay buffer is "
            print(f"{text}divided anew, new episodes begin, and the run is not bit for bit the one that was stopped")

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
        if self.ranks.rank > 0:  # statistics of batches are each rank's own, and the model is the first rank's
            arrays |= {
                f"batches/{name}": [part.cpu().numpy().reshape(-1)] for name, part in self._batch_statistics().items()
            }
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

    def _batch_statistics(self) -> dict[str, th.Tensor]:
        """Statistics of batches in all copies of the model, by name."""
        copies = self.policy.copies
        models = {"model": copies.model, "average": copies.average, "target": copies.target}
        return {f"{name}/{key}": part for name, model in models.items() for key, part in model.named_buffers()}

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
        if self.ranks.rank > 0:
            for name, part in self._batch_statistics().items():
                part.copy_(th.from_numpy(found[f"batches/{name}"]).view_as(part))
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
