"""The SB3 policies: the world model and its copies, the optimiser, and a search behind every prediction."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import get_device

from sb3_ezv2.common.action_masks import checked_masks
from sb3_ezv2.common.actions import ActionKind, Sampling, action_kind_of
from sb3_ezv2.common.arguments import argument_names, check_known, keywords, shown
from sb3_ezv2.common.files import open_to_replace
from sb3_ezv2.common.random_numbers import GloballySeeded
from sb3_ezv2.common.spaces import image_parts
from sb3_ezv2.common.type_aliases import Noise, Plan
from sb3_ezv2.networks.builders import ImageNetwork, VectorNetwork, image_model, vector_model
from sb3_ezv2.networks.copies import ModelCopies
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.torch_nodes import TensorNoise
from sb3_ezv2.policy_files import read_policy, write_policy
from sb3_ezv2.search_arguments import SearchArguments

SelfPlanningPolicy = TypeVar("SelfPlanningPolicy", bound="PlanningPolicy")


class PlanningPolicy(BasePolicy):
    """Base of the policies that plan with a learned model.

    It holds three copies of the model, ``model``, ``average_model`` and ``target_model``, which
    :class:`~sb3_ezv2.networks.copies.ModelCopies` keeps; the average acts.

    What goes into ``policy_kwargs`` are the arguments of the network, see ``network_class`` of the subclass, and those
    of the optimiser. The arguments of the search are those of the algorithm that have the same names.

    :param observation_space: of the environment
    :param action_space: ``Discrete`` or bounded ``Box``
    :param lr_schedule: learning rate as a function of the remaining progress
    :param optimizer_class: optimiser of the model
    :param optimizer_kwargs: its arguments besides the learning rate
    :param kwargs: of :class:`SearchArguments` and of the ``network_class``
    :raises ValueError: naming the argument, if a value cannot work
    """

    network_class: ClassVar[type[VectorNetwork] | type[ImageNetwork]]
    _given_masks: np.ndarray | None = None  # to the call of predict that is going on

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_known(kwargs, policy_arguments(type(self)), f"{type(self).__name__}'s arguments")
        search = SearchArguments.of(kwargs)
        kind = action_kind_of(
            action_space, Sampling(search.n_candidates, search.n_policy_candidates, search.flatten_factor)
        )
        super().__init__(observation_space, action_space, squash_output=kind.scaled)
        self.action_kind, self.search_arguments = kind, search
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, th.optim.Optimizer)):
            raise ValueError(f"optimizer_class={shown(optimizer_class)} must be a class of torch.optim")
        self.optimizer_class = optimizer_class
        self.optimizer_kwargs = {} if optimizer_kwargs is None else dict(keywords("optimizer_kwargs", optimizer_kwargs))
        if optimizer_class is th.optim.Adam:
            self.optimizer_kwargs.setdefault("fused", True)  # one kernel instead of a dozen per parameter
        self.network = self.network_class.of(kwargs)
        self.planner = search.planner(kind.n_candidates)
        model = self.make_model(kind, search.gamma)
        try:
            self.copies = ModelCopies(model, optimizer_class, self.optimizer_kwargs, lr_schedule(1))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"optimizer_kwargs={shown(optimizer_kwargs)} do not fit {optimizer_class.__name__}: {error}"
            ) from error
        self.model, self.average_model, self.target_model = model, self.copies.average, self.copies.target
        self.optimizer = self.copies.optimizer
        self.rng = np.random.default_rng()
        self.prediction_noise = GloballySeeded()

    @abstractmethod
    def make_model(self, action_kind: ActionKind, gamma: float) -> EfficientZeroModel:
        """Build the world model from ``network``."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,  # a policy loaded alone is not trained
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            **vars(self.search_arguments),
            **vars(self.network),
        }

    def save(self, path: str) -> None:
        """Save the acting network with its settings, without what only training needs.

        :param path: file to write, replaced as a whole
        :raises ValueError: if an argument of the policy cannot be written, as a function
        """
        arguments, name = self._get_constructor_parameters(), type(self).__name__
        with open_to_replace(path) as file:
            write_policy(
                *(file, name, arguments, self.observation_space, self.action_space, self.average_model.state_dict())
            )

    @classmethod
    def load(cls: type[SelfPlanningPolicy], path: str, device: th.device | str = "auto") -> SelfPlanningPolicy:
        """Load a policy to act with; nothing in the file is executed.

        :param path: file written by :meth:`save` or by ``model.save_policy``
        :param device: where the policy is to be
        :return: of the class that was saved, where this class is one of its bases
        :raises ValueError: if the file is damaged or something else, or its policy of a class that is not known here
        """
        with open(path, "rb") as file:
            return cls.from_file(file, str(path), device)

    @classmethod
    def from_file(
        cls: type[SelfPlanningPolicy], file: BinaryIO, name: str, device: th.device | str = "auto"
    ) -> SelfPlanningPolicy:
        """Load a policy from an open file, which is called ``name`` in errors; see :meth:`load`."""
        content = read_policy(file, name)
        policy_class = next((kind for kind in _subclasses(cls) if kind.__name__ == content["class"]), None)
        if policy_class is None:
            raise ValueError(f"{name} holds a {content['class']}, which is no {cls.__name__}; import its class first")
        found = content["observation_space"], content["action_space"]
        settings = content["settings"]
        if issubclass(policy_class, CnnPolicy):
            settings.setdefault("net_size", "paper")  # there was no other
        policy = policy_class(*found, cls._dummy_schedule, **settings)
        for model in (policy.model, policy.average_model, policy.target_model):
            model.load_state_dict(content["state"])
        return policy.to(get_device(device))

    def train(self, mode: bool = True) -> "PlanningPolicy":
        """Remember the mode, nothing more: the model is always in training mode and its copies never are."""
        self.training = mode
        return self

    def seed_planning(self, seed: int | None) -> None:
        """Restart the random numbers of exploring searches and of the updates.

        Those of predictions restart from numpy's global generator.
        """
        self.rng = np.random.default_rng(seed)
        self.copies.seed(seed)
        self.prediction_noise.restart()

    def _named_tensors(self, observations: PyTorchObs) -> dict[str, th.Tensor]:
        return observations if isinstance(observations, dict) else {"observation": observations}

    def set_search(self, arguments: SearchArguments) -> None:
        """Search in another way from now on.

        :raises ValueError: if the number of candidates does not allow it
        """
        self.planner = arguments.planner(self.action_kind.n_candidates)
        self.search_arguments = arguments

    def search(
        self,
        observations: PyTorchObs,
        deterministic: bool = False,
        rng: np.random.Generator | None = None,
        masks: np.ndarray | None = None,
    ) -> Plan:
        """Plan for tensors ``[n, ...]``; actions of a ``Box`` come scaled to [-1, 1], discrete ones count from 0.

        :param observations: as ``obs_to_tensor`` makes them
        :param deterministic: greedy instead of exploring
        :param rng: source of the noise while exploring; ``None`` for the one of learning
        :param masks: of the legal choices ``[n, mask_size]``; ``None`` for all
        """
        named = self._named_tensors(observations)
        if deterministic:
            noise: Noise | TensorNoise = self.planner.greedy_noise(self.average_model)
        else:
            n = len(next(iter(named.values())))
            noise = self.planner.draw_noise(self.average_model, n, self.rng if rng is None else rng)
        return self.planner.plan(self.average_model, named, noise, not deterministic, masks)

    def draw_actions(self, observations: PyTorchObs, masks: np.ndarray | None = None) -> np.ndarray:
        """Actions as :meth:`search` has them, drawn from its candidates without a search."""
        return self.planner.draw_actions(self.average_model, self._named_tensors(observations), self.rng, masks)

    def plan(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> Plan:
        """Search from one or several observations and show everything that the search found.

        :param observation: as for ``predict``; a single one counts as a batch of one
        :param deterministic: greedy instead of exploring, as for ``predict``
        :param action_masks: of the legal actions, as for ``predict``
        :return: chosen actions, candidates, improved policy, visit counts and root values, one row per observation;
            actions and candidates are in the environment's own units
        """
        tensors, _ = self.obs_to_tensor(observation)
        masks = self._checked_masks(tensors, action_masks)
        plan = self.search(tensors, deterministic, None if deterministic else self.prediction_noise.generator(), masks)
        return plan._replace(actions=self.to_env_actions(plan.actions), candidates=self.to_env_actions(plan.candidates))

    @contextmanager
    def simulations(self, n_simulations: int | None) -> Iterator[None]:
        """Search with another number of model calls within a ``with``, for quicker or deeper plans.

        :param n_simulations: model calls per search; ``None`` for the usual number
        :raises ValueError: if the number does not fit
        """
        usual = self.search_arguments
        if n_simulations is None or n_simulations == usual.n_simulations:
            yield
            return
        self.set_search(replace(usual, n_simulations=n_simulations))
        try:
            yield
        finally:
            self.set_search(usual)

    @contextmanager
    def masked(self, action_masks: np.ndarray | None) -> Iterator[None]:
        """Let ``predict`` choose legal actions only within a ``with``.

        :param action_masks: one for every observation of the prediction; ``None`` where all are legal
        """
        self._given_masks = action_masks
        try:
            yield
        finally:
            self._given_masks = None

    def _checked_masks(self, tensors: PyTorchObs, action_masks: Any) -> np.ndarray | None:
        n = len(next(iter(self._named_tensors(tensors).values())))
        return None if action_masks is None else checked_masks(action_masks, n, self.action_kind, "action_masks")

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """Actions of ``predict`` between the bounds; see ``BasePolicy.unscale_action``."""
        flat = scaled_action.reshape(-1, *self.action_kind.shape)
        return self.action_kind.to_env(flat).reshape(scaled_action.shape)

    def to_env_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions of a plan ``[..., *action_shape]`` in the environment's own units and dtype."""
        return self.action_kind.to_env(actions)

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """Network values ``[n, 1]`` of observations, in the environment's units, without a search.

        :param obs: tensors as ``obs_to_tensor`` makes them
        """
        with th.no_grad():
            return self.average_model.values(self._named_tensors(obs)).unsqueeze(-1)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if th.jit.is_tracing():  # type: ignore[attr-defined]
            raise ValueError("a search cannot be traced, its actions would be constants; use model.export_onnx(path)")
        masks = self._checked_masks(observation, self._given_masks)
        # Asking the global generator where it stands takes a tenth of a search.
        rng = None if deterministic else self.prediction_noise.generator()
        actions = self.search(observation, deterministic, rng, masks).actions
        # Scaled ones are brought to the bounds by ``predict``.
        return th.as_tensor(actions if self.action_kind.scaled else self.to_env_actions(actions))

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Same as ``_predict``."""
        return self._predict(obs, deterministic)


def _subclasses(policy_class: type[SelfPlanningPolicy]) -> Iterator[type[SelfPlanningPolicy]]:
    yield policy_class
    for kind in policy_class.__subclasses__():
        yield from _subclasses(kind)


class EZV2Policy(PlanningPolicy):
    """Policy for vector observations that plans with a learned model; ``"MlpPolicy"``.

    :param observation_space: of the environment
    :param action_space: ``Discrete`` or bounded ``Box``
    :param lr_schedule: learning rate as a function of the remaining progress
    :param kwargs: sizes of the network, see :class:`~sb3_ezv2.networks.builders.VectorNetwork`, and what
        :class:`PlanningPolicy` takes
    :raises ValueError: naming the argument, if a value cannot work
    """

    network_class = VectorNetwork
    network: VectorNetwork

    def make_model(self, action_kind: ActionKind, gamma: float) -> EfficientZeroModel:
        """Build the world model for vectors."""
        self.normalize_images = self.network.normalize_images
        return vector_model(self.observation_space, action_kind, gamma, self.network)


class CnnPolicy(PlanningPolicy):
    """Policy for image observations that plans with a learned model; the size of its network follows the image.

    Images have 5 to 128 pixels per side and 1 to 128 channels, first or last. What else is in a ``Dict`` is flattened
    and joins them. ``net_size="paper"`` is the paper's network, for images of one size, of 32 pixels or more and of 12
    channels or fewer.

    :param observation_space: of the environment
    :param action_space: ``Discrete`` or bounded ``Box``
    :param lr_schedule: learning rate as a function of the remaining progress
    :param kwargs: sizes of the network, see :class:`~sb3_ezv2.networks.builders.ImageNetwork`, and what
        :class:`PlanningPolicy` takes
    :raises ValueError: naming the argument, if a value cannot work, or if the observations are not such images
    """

    network_class = ImageNetwork
    network: ImageNetwork

    def make_model(self, action_kind: ActionKind, gamma: float) -> EfficientZeroModel:
        """Build the world model for images."""
        self.normalize_images, limits = self.network.normalize_images, self.network.limits
        if not image_parts(self.observation_space, self.normalize_images, limits):
            raise ValueError(
                f"observation space {self.observation_space} has no image of at least {limits.min_side} pixels per "
                f"side for {limits.network}; use 'MultiInputPolicy', which flattens everything else"
            )
        return image_model(self.observation_space, action_kind, gamma, self.network)


class MultiInputPolicy(EZV2Policy):
    """Policy for a ``Dict`` of vectors; with images in it, the algorithm takes :class:`CnnPolicy` in its place.

    :param observation_space: of the environment
    :param action_space: ``Discrete`` or bounded ``Box``
    :param lr_schedule: learning rate as a function of the remaining progress
    :param kwargs: as for :class:`EZV2Policy`, or for :class:`CnnPolicy` where there are images
    """


MlpPolicy = EZV2Policy


def policy_arguments(policy_class: type[PlanningPolicy]) -> set[str]:
    """Names of everything that a policy takes besides its spaces and its learning rate."""
    given = {"self", "observation_space", "action_space", "lr_schedule"}
    classes = [part for part in policy_class.__mro__ if issubclass(part, PlanningPolicy) and "__init__" in vars(part)]
    names = {name for part in classes for name in argument_names(vars(part)["__init__"])}
    return (names | {*policy_class.network_class.names(), *SearchArguments.names()}) - given


def seen_images(observation_space: spaces.Space, kwargs: dict[str, Any]) -> dict[str, spaces.Box]:
    """Images that ``CnnPolicy`` sees with these ``policy_kwargs``, by key; see :func:`image_parts`."""
    network = ImageNetwork.of({name: kwargs[name] for name in ("net_size", "normalize_images") if name in kwargs})
    return image_parts(observation_space, network.normalize_images, network.limits)


def policy_for(
    policy_class: type[Any], observation_space: spaces.Space, kwargs: dict[str, Any]
) -> type[PlanningPolicy]:
    """``CnnPolicy`` in place of ``MultiInputPolicy`` for a ``Dict`` with images that it can see.

    With a features extractor, which takes the place of all convolutions, ``MlpPolicy`` in place of ``CnnPolicy``.

    :param policy_class: what the user chose
    :param observation_space: of the environment
    :param kwargs: of the policy
    :raises ValueError: if images have different sizes or are too large, or if the policy has no such arguments
    """
    if kwargs.get("features_extractor_class") is not None:
        policy_class = MlpPolicy if policy_class is CnnPolicy else policy_class
    elif issubclass(policy_class, MultiInputPolicy) and isinstance(observation_space, spaces.Dict):
        policy_class = CnnPolicy if seen_images(observation_space, kwargs) else policy_class
    # The algorithm has arguments of its own for the search.
    known = policy_arguments(policy_class) - set(SearchArguments.names())
    check_known(kwargs, known, f"{policy_class.__name__}'s policy_kwargs")
    return policy_class
