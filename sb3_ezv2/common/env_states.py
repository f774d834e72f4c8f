"""The state of environments as bytes: where each episode stands, with its random numbers and wrappers."""

import io
import pickle
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.utils import EzPickle
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize

from sb3_ezv2.common.vec_envs import ATTRIBUTES

KEPT = {"results_writer", "t_start", "class_attributes", "spec", "_cached_spec", *ATTRIBUTES}
"""Attributes that stay those of the environments at hand: open files, the clock, what names the environment, and the
count of its calls."""


class NoEnvironmentState(Exception):
    """Environments cannot be saved, or do not take a state; the text says why."""


def environment_layers(env: VecEnv) -> list[Any]:
    """All objects that an environment consists of: the vectorised wrappers, then each environment with its wrappers.

    :param env: vectorised
    :return: from the outermost to the innermost
    """
    layers: list[Any] = []
    while isinstance(env, VecEnvWrapper):
        layers.append(env)
        env = env.venv
    layers.append(env)
    for single in env.envs if isinstance(env, DummyVecEnv) else []:
        inner: Any = single
        while isinstance(inner, gym.Wrapper):
            layers.append(inner)
            inner = inner.env
        layers.append(inner)
    return layers


def layer_names(env: VecEnv) -> list[str]:
    """Classes of the layers."""
    return [f"{type(layer).__module__}.{type(layer).__qualname__}" for layer in environment_layers(env)]


class _Pickler(cloudpickle.Pickler):
    """Pickles what the layers hold, with references to the layers themselves."""

    def __init__(self, file: io.BytesIO, layers: list[Any]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.numbers = {id(layer): number for number, layer in enumerate(layers)}

    def persistent_id(self, obj: Any) -> int | None:
        """Number of a layer; see ``pickle.Pickler``."""
        number = self.numbers.get(id(obj))
        if number is None and isinstance(obj, EzPickle):
            # It would be made anew from its arguments, in the state that a new one has.
            raise pickle.PicklingError(f"{type(obj).__name__} inside it does not pickle its state")
        return number


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, layers: list[Any]) -> None:
        super().__init__(file)
        self.layers = layers

    def persistent_load(self, pid: int) -> Any:
        """The layer of that number; see ``pickle.Unpickler``."""
        return self.layers[pid]


def environment_state(env: VecEnv) -> bytes:
    """Everything that the environments and their wrappers hold.

    :param env: a ``DummyVecEnv`` of environments that can be pickled, in any wrappers
    :return: for :func:`restore_environment`
    :raises NoEnvironmentState: if something in them cannot be pickled
    """
    layers = environment_layers(env)
    if not isinstance(env.unwrapped, DummyVecEnv):
        raise NoEnvironmentState(f"the environments of a {type(env.unwrapped).__name__} are out of reach")
    file = io.BytesIO()
    try:
        states = [{name: value for name, value in vars(layer).items() if name not in KEPT} for layer in layers]
        _Pickler(file, layers).dump(states)
    except Exception as error:  # whatever their own code does when it is pickled
        raise NoEnvironmentState(f"the environments cannot be pickled: {error}") from error
    return file.getvalue()


def restore_environment(env: VecEnv, state: bytes, names: list[str]) -> None:
    """Put environments into the state that others of the same layers had; they stay the same objects.

    :param env: made as the others were
    :param state: from :func:`environment_state`; a pickle, which may execute anything
    :param names: :func:`layer_names` of the others
    :raises NoEnvironmentState: if the layers differ or the state cannot be read; then nothing has changed
    """
    layers, ours = environment_layers(env), layer_names(env)
    if ours != names:
        different = next((f"{a} in place of {b}" for a, b in zip(ours, names, strict=False) if a != b), "their number")
        raise NoEnvironmentState(f"the environments have other wrappers than they had ({different})")
    try:
        states = _Unpickler(io.BytesIO(state), layers).load()
    except Exception as error:
        raise NoEnvironmentState(f"the environments cannot be unpickled: {error}") from error
    for layer, attributes in zip(layers, states, strict=True):
        held = vars(layer)
        for name in held.keys() - attributes.keys() - KEPT:
            del held[name]
        held.update(attributes)


def normalization_state(env: VecEnv) -> bytes | None:
    """The statistics of a ``VecNormalize``, pickled; ``None`` if there is none."""
    wrapper = unwrap_vec_normalize(env)
    return None if wrapper is None else pickle.dumps(wrapper.__getstate__())


def restore_normalization(env: VecEnv, state: bytes) -> None:
    """Give a ``VecNormalize`` the statistics and settings of another one.

    :param env: with a ``VecNormalize`` around it
    :param state: from :func:`normalization_state`
    :raises ValueError: if there is none
    """
    wrapper = unwrap_vec_normalize(env)
    if not isinstance(wrapper, VecNormalize):
        raise ValueError(
            "the environments were normalised by VecNormalize, those given are not; wrap them: VecNormalize(env)"
        )
    vars(wrapper).update({name: value for name, value in pickle.loads(state).items() if name not in KEPT})
