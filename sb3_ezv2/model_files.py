"""Models as files: what training needs in one, what acting needs in another."""

import inspect
import io
from pathlib import Path
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces

from sb3_ezv2.common.archives import archive_parts
from sb3_ezv2.common.arguments import Whole, switch
from sb3_ezv2.export import write_onnx
from sb3_ezv2.networks.copies import checked_optimizer
from sb3_ezv2.policies import PlanningPolicy
from sb3_ezv2.policy_files import OF_TRAINING, is_policy_archive
from sb3_ezv2.replay_algorithm import ReplayAlgorithm

MOST_OBSERVATIONS = 4096
MODEL_PARTS = {"data", "policy.pth", "policy.optimizer.pth"}
"""What a file of ``save`` holds."""

SelfSaved = TypeVar("SelfSaved", bound="SavedAlgorithm")


class SavedAlgorithm(ReplayAlgorithm):
    """An algorithm whose files are checked before they are read, and whose policy can be handed on."""

    policy: PlanningPolicy

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            *(
                "replay_buffer",
                "reanalyzer",
                "diagnostics",
                "updater",
                "rng",
                "random_actions",
                "_last_masks",
                "_stream_is_whole",
                "_n_own_calls",
                "ranks",
            ),
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Set the parameters of the policy and its optimiser; see ``BaseAlgorithm.set_parameters``.

        :raises ValueError: if a state of the optimiser does not belong to these parameters; then it stays as it was
        """
        with checked_optimizer(self.policy.optimizer):
            super().set_parameters(*args, **kwargs)

    @classmethod
    def load(
        cls: type[SelfSaved],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        *args: Any,
        **kwargs: Any,
    ) -> SelfSaved:
        """Load a model; see ``BaseAlgorithm.load``. A model may execute anything: load only what you trust.

        A file of :meth:`save_policy` gives a model to act with, and executes nothing.

        :param path: file written by ``save`` or :meth:`save_policy`
        :param env: environments to learn in; ``None`` to predict only
        :param device: where the model is to be
        :param args: of ``BaseAlgorithm.load``
        :param kwargs: of ``BaseAlgorithm.load``, and arguments of the constructor to change
        :raises ValueError: if the file is damaged or something else
        """
        file = open_path(path, "r", suffix="zip")
        try:
            parts = archive_parts(file, str(path))
            if is_policy_archive(parts):
                policy = PlanningPolicy.from_file(file, str(path), "cpu")
                return cls._acting(policy, env, device, **kwargs)
            archive_parts(file, str(path), MODEL_PARTS)
        finally:
            if isinstance(path, str | Path):
                file.close()
        return super().load(path, env, device, *args, **kwargs)

    @classmethod
    def _acting(
        cls: type[SelfSaved], policy: PlanningPolicy, env: GymEnv | str | None, device: th.device | str, **kwargs: Any
    ) -> SelfSaved:
        """A model that acts as a policy does."""
        settings = policy._get_constructor_parameters()
        ours = inspect.signature(cls.__init__).parameters.keys() - OF_TRAINING
        network = {name: value for name, value in settings.items() if name not in ours | OF_TRAINING}
        given = {name: value for name, value in settings.items() if name in ours}
        given |= {"device": device, "policy_kwargs": network, "_init_setup_model": False}
        model = cls(type(policy), env, **given)
        vars(model).update({name: value for name, value in kwargs.items() if name in ours})
        if model.env is not None:
            check_for_correct_spaces(model.env, policy.observation_space, policy.action_space)
        else:
            model.observation_space, model.action_space = policy.observation_space, policy.action_space
            model.n_envs = 1
        model._from_release_0_1 = model._from_before_net_size = False
        model._setup_model()
        model.set_parameters({"policy": policy.state_dict()}, exact_match=False)
        return model

    def export_onnx(
        self,
        path: str | Path,
        n_simulations: int | None = None,
        deterministic: bool = True,
        search: bool = True,
        n_observations: int = 1,
    ) -> None:
        """Write the agent as one ONNX graph of fixed shapes, from the observation to the action; needs ``export``.

        Whatever runs ONNX plans with it, without Python. What ``VecNormalize`` does to observations is part of it. With
        ``deterministic=False`` the noise of exploring is an input besides the observation.

        :param path: file to write, replaced as a whole
        :param n_simulations: model calls of the search; ``None`` for as many as the model makes
        :param deterministic: greedy instead of exploring, as for ``predict``
        :param search: whether to plan; without, the graph is the policy alone, which is faster and weaker
        :param n_observations: how many observations the graph decides for at once
        :raises ValueError: if an argument cannot be, or the network has an operator that ONNX does not know
        :raises ImportError: if the extra ``export`` is missing
        """
        for name, value in (("deterministic", deterministic), ("search", search)):
            switch(name, value)
        Whole(1, MOST_OBSERVATIONS)("n_observations", n_observations)
        write_onnx(self.policy, self.normalizer, path, n_simulations, deterministic, search, n_observations)

    def save_policy(self, path: str | Path) -> None:
        """Save the acting network and its settings alone, to be handed on.

        The file is small, and reading it executes nothing. :meth:`PlanningPolicy.load
        <sb3_ezv2.policies.PlanningPolicy.load>` and :meth:`load` read it. ``VecNormalize`` has a file of its own.

        :param path: file to write, replaced as a whole; ``.pt`` is added if it has no suffix
        :raises ValueError: if an argument of the policy cannot be written, as a function
        """
        if self.ranks.rank > 0:
            return  # the first rank writes it
        target = Path(path)
        self.policy.save(str(target if target.suffix else target.with_name(f"{target.name}.pt")))
