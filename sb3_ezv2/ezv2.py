"""EfficientZero V2 as a Stable-Baselines3 algorithm: collects, replays, reanalyses, learns."""

from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_ezv2.argument_groups import Arguments
from sb3_ezv2.common.arguments import shown, switch
from sb3_ezv2.common.schedules import InverseSqrt
from sb3_ezv2.common.spaces import check_observation_space, named_arrays
from sb3_ezv2.common.tensors import to_tensors
from sb3_ezv2.common.type_aliases import TrainingTargets, TrajectoryBatch
from sb3_ezv2.learning.agreement import agree_on_normalization, agreed_weights
from sb3_ezv2.learning.diagnostics import FIRST, INTERVAL, Diagnostics
from sb3_ezv2.learning.exploration import RandomActions
from sb3_ezv2.learning.losses import tensor_batch
from sb3_ezv2.learning.reanalyze import Reanalyzer
from sb3_ezv2.learning.statistics import DataStatistics, set_rewards
from sb3_ezv2.learning.updates import Updater
from sb3_ezv2.offline import OfflineAlgorithm
from sb3_ezv2.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, PlanningPolicy, policy_for
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.search_arguments import SearchArguments

SelfEfficientZeroV2 = TypeVar("SelfEfficientZeroV2", bound="EfficientZeroV2")


class EfficientZeroV2(OfflineAlgorithm):
    """EfficientZero V2 (EZ-V2): plans in a learned model, with discrete or continuous actions.

    Paper: https://arxiv.org/abs/2403.00564. The defaults are for runs of a few thousand to a hundred thousand steps on
    a CPU; the page "Deviations from the paper" lists what differs from the paper's settings and why.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a policy class
    :param env: environment, or its id if registered
    :param learning_rate: of the optimiser, or a function of the remaining progress (from 1 to 0)
    :param buffer_size: observations kept, all environments together; memory grows with use
    :param learning_starts: transitions collected with random actions before the first update
    :param batch_size: sampled positions per update
    :param tau: share of the newest weights that enters the running average after every update; the average acts, and
        the target network is copied from it
    :param gamma: discount of one step
    :param train_freq: collect this many steps between updates, or ``(n, "step")`` or ``(n, "episode")``
    :param gradient_steps: updates each time; -1 for one per collected transition
    :param replay_buffer_class: subclass of :class:`~sb3_ezv2.replay.buffer.TrajectoryReplayBuffer`
    :param replay_buffer_kwargs: its further arguments, for example ``{"alpha": 0.6}``; ``n_stack`` is that of a
        ``VecFrameStack`` around the environments unless given here
    :param novelty_coef: size, in units of the rewards, of the intrinsic reward for states that few others resemble,
        which stands in for rewards that tell no states apart, see :class:`~sb3_ezv2.learning.novelty.Novelty`; 0 for
        none
    :param n_simulations: model calls per search
    :param n_candidates: actions sampled at the root of a search; ``Discrete`` always has all of them. The prior over
        sampled actions is uniform, so those beyond ``n_considered`` are never visited
    :param n_considered: candidates that sequential halving starts with; ``None`` for half the simulations, at most all
    :param max_depth: steps that a search looks ahead at most; ``None`` for ``unroll_steps``, which are trained
    :param n_policy_candidates: candidates that come from the policy itself while exploring, the others come from the
        policy with a larger standard deviation (paper, section 4.1)
    :param flatten_factor: multiplies that standard deviation
    :param act_with: ``"search"``, or ``"policy"`` to collect with a random one of the candidates of a search instead
    :param unroll_steps: dynamics steps of the loss
    :param td_steps: rewards in the multi-step value target; ``None`` for 10 with discrete actions and 5 with others
    :param td_phase: T1 of the mixed value target, in updates: until then it is the multi-step return everywhere
    :param td_fresh: T2 of the mixed value target, in observations: the newest states keep the multi-step return
    :param value_target: ``"mixed"`` (paper); ``"search"`` or ``"multi_step"`` for one of its two parts alone
    :param search_value: the search's part, the returns of its simulations with the candidates weighted by the
        ``"policy"`` (``None`` with ``Discrete``), the ``"improved"`` one (``None`` elsewhere) or the visits
        (``"mean"``, paper, equation 9)
    :param target_update_interval: updates between two copies of the average to the target network, after which every
        state is searched anew; ``None`` for 50, and more once states are drawn fewer than four times in them
    :param priority_beta: exponent of the importance weights
    :param reward_coef: weight of the reward loss
    :param value_coef: weight of the value loss
    :param policy_coef: weight of the policy loss
    :param consistency_coef: weight of the consistency loss
    :param ent_coef: weight of the entropy bonus
    :param max_grad_norm: gradients are clipped to this norm
    :param mixed_precision: compute the networks of an update in bfloat16 and their losses in float32. Faster on GPUs
        and on processors that calculate in bfloat16 (AVX-512 BF16, AMX), slower on others
    :param use_target_cache: reuse search results until the target network changes; without, everything is searched
        every time, which costs more and gives targets of the same distribution
    :param n_threads: threads of torch while ``learn`` runs on the CPU, ``None`` to leave them alone. Networks of this
        size gain little from a second thread, and on small virtual machines two can be many times slower than one
    :param stats_window_size: episodes that the logged means are taken over
    :param tensorboard_log: folder of TensorBoard logs
    :param policy_kwargs: sizes of the network and arguments of the optimiser, see
        :class:`~sb3_ezv2.networks.builders.VectorNetwork`, :class:`~sb3_ezv2.networks.builders.ImageNetwork` and
        :class:`~sb3_ezv2.policies.PlanningPolicy`
    :param verbose: 0 nothing, 1 information, 2 debug messages
    :param seed: of everything random
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"``
    :param _init_setup_model: whether to build the networks at once
    :raises ValueError: naming the argument, if a value or a space cannot work
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: PlanningPolicy
    reanalyzer: Reanalyzer
    random_actions: RandomActions
    _next_refresh = 0  # of the target network, in updates

    def __init__(
        self,
        policy: str | type[PlanningPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = InverseSqrt(1e-3, 1_000),  # noqa: B008  # never changed
        buffer_size: int = 1_000_000,
        learning_starts: int = 200,
        batch_size: int = 64,
        tau: float = 0.05,
        gamma: float = SearchArguments.gamma,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = -1,
        replay_buffer_class: type[TrajectoryReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        novelty_coef: float = 1.0,
        n_simulations: int = SearchArguments.n_simulations,
        n_candidates: int = SearchArguments.n_candidates,
        n_considered: int | None = SearchArguments.n_considered,
        max_depth: int | None = SearchArguments.max_depth,
        n_policy_candidates: int = SearchArguments.n_policy_candidates,
        flatten_factor: float = SearchArguments.flatten_factor,
        act_with: str = "search",
        unroll_steps: int = 5,
        td_steps: int | None = None,
        td_phase: int = 400,
        td_fresh: int = 1_000,
        value_target: str = "mixed",
        search_value: str | None = None,
        target_update_interval: int | None = None,
        priority_beta: float = 0.4,
        reward_coef: float = 1.0,
        value_coef: float = 0.5,
        policy_coef: float = 1.0,
        consistency_coef: float = 2.0,
        ent_coef: float = 0.005,
        max_grad_norm: float = 5.0,
        mixed_precision: bool = False,
        use_target_cache: bool = True,
        n_threads: int | None = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        given = dict(locals())
        chosen = self.policy_aliases.get(policy) if isinstance(policy, str) else policy
        if not (isinstance(chosen, type) and issubclass(chosen, PlanningPolicy)):
            raise ValueError(f"policy={shown(policy)} must be {' or '.join(self.policy_aliases)}, or a subclass of one")
        if switch("_init_setup_model", _init_setup_model) and env is None:
            raise ValueError(
                "env=None: a model is built for an environment's spaces; load and from_data need no environment"
            )
        self._use_arguments(Arguments.of(given))
        super().__init__(
            policy,
            None if env is None else self._wrap_env(env, self.verbose),
            **{name: given[name] for name in ("learning_rate", "policy_kwargs", "tensorboard_log", "device", "seed")},
            stats_window_size=self.stats_window_size,
            verbose=self.verbose,
            support_multi_env=True,
        )
        # Unless the file that is about to be read says otherwise.
        self._from_release_0_1 = self._from_before_net_size = not _init_setup_model
        self.target_version = 0
        if _init_setup_model:
            self._setup_model()

    # -- set-up ----------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        super()._setup_model()
        self._read_arguments()
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        check_observation_space(self.observation_space)
        policy_class = policy_for(self.policy_class, self.observation_space, self.policy_kwargs)
        self.replay_buffer = self._new_replay_buffer()
        policy = policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            **vars(self.arguments.search_of_policy()),
            **self.policy_kwargs,
        ).to(self.device)
        policy.seed_planning(self.ranks.seed(self.seed))
        self.updater = Updater(policy.copies, ranks=self.ranks)
        targets = self.arguments.targets
        self.reanalyzer = Reanalyzer(policy.planner, policy.action_kind, targets.use_target_cache, targets.search_value)
        self.diagnostics = Diagnostics(self.gamma, self.n_envs, warns=self.ranks.rank == 0)
        self.random_actions = RandomActions(policy.action_kind, self.n_envs)
        if not hasattr(self, "statistics"):  # a loaded model brings its own
            self.statistics = DataStatistics(len(policy.model.observation_mean))
        self.policy = policy

    def _argument_changed(self, name: str) -> None:
        if name == "learning_rate":
            self._setup_lr_schedule()
        self.policy.set_search(self.arguments.search_of_policy())
        self.reanalyzer.planner = self.policy.planner
        targets = self.arguments.targets
        self.reanalyzer.use_cache, self.reanalyzer.search_value = targets.use_target_cache, targets.search_value

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Set the parameters of the policy and its optimiser; see ``SavedAlgorithm.set_parameters``."""
        super().set_parameters(*args, **kwargs)
        self.reanalyzer.cache.clear()
        self.statistics.read_observations(self.policy.model)

    def _replay_buffer_loaded(self) -> None:
        self.reanalyzer.cache.clear()
        self._describe_data()

    def _describe_data(self) -> None:
        self.statistics.describe(self._flat(part) for part in self.replay_buffer.stored_observations())
        self.replay_buffer.has_old_data = False

    def _start_streams(self) -> None:
        super()._start_streams()
        self.diagnostics.begin_streams()

    # -- collecting ------------------------------------------------------------------------------------------------

    def learn(
        self: SelfEfficientZeroV2,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "EfficientZeroV2",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfEfficientZeroV2:
        """Collect ``total_timesteps`` transitions and learn from them; see ``BaseAlgorithm.learn``.

        :raises ValueError: if there is no environment, or if it returns what cannot be learnt from
        """
        if self.env is None:
            raise ValueError(f"env=None: pass env to {type(self).__name__} or to load, or call set_env before learn")
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        self._begin_run()
        callback.on_training_start(locals(), globals())
        with self._bound_threads():
            while self.num_timesteps < total_timesteps or self._is_in_between:
                plan = self.arguments.exploration
                if not self._updates_due:
                    rollout = self.collect_rollouts(
                        *(self.env, callback, plan.sb3_train_freq(), self.replay_buffer),
                        *(plan.learning_starts, log_interval),
                    )
                    if not rollout.continue_training:
                        break
                    self._updates_due = rollout.episode_timesteps if plan.gradient_steps < 0 else plan.gradient_steps
                if self.num_timesteps > plan.learning_starts and self._has_a_batch:
                    self.train(self._updates_due)
                self._updates_due = 0
        callback.on_training_end()
        return self

    def _begin_run(self) -> None:
        self.diagnostics.symptoms.begin_run()
        if self.replay_buffer.has_old_data:
            self._describe_data()

    def _choose_actions(self, n_envs: int, learning_starts: int) -> np.ndarray:
        """Actions counted from 0 or scaled to [-1, 1]: random ones first, then those of an exploring search."""
        if self.num_timesteps < learning_starts:
            return self.random_actions.draw(self.rng, self._masks())
        assert self._last_obs is not None
        tensors, _ = self.policy.obs_to_tensor(self._last_obs)
        if self.arguments.exploration.act_with == "policy":
            return self.policy.draw_actions(tensors, self._masks())
        plan = self.policy.search(tensors, masks=self._masks())
        self.diagnostics.root_values = plan.root_values
        return plan.actions

    def _store(
        self, actions: np.ndarray, new_obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """Add one step of every environment to the replay buffer and to the statistics."""
        self._add_to_buffer(actions, new_obs, rewards, dones, infos)
        self.diagnostics.see_step(rewards, dones, infos)
        assert self._last_original_obs is not None
        self.statistics.update(self._flat(self._last_original_obs))

    def _flat(self, observations: Any) -> np.ndarray:
        """Observations of several environments as the model flattens them ``[n, observation_dim]``."""
        tensors = to_tensors(named_arrays(observations), th.device("cpu"))
        return self.policy.model.flatten(tensors).cpu().numpy()

    # -- learning --------------------------------------------------------------------------------------------------

    def train(self, gradient_steps: int) -> None:
        """Make ``gradient_steps`` updates.

        Each samples a batch, brings its targets up to date, takes one optimiser step and updates the priorities.
        """
        if gradient_steps < 1:
            return
        self.replay_buffer.mirror_on(self.device)
        self.reanalyzer.prioritise_new(self.policy.average_model, self.replay_buffer, self.normalizer)
        settings = self.arguments.losses.update_settings()
        logs = []
        for _ in range(gradient_steps):
            if self._n_updates >= self._next_refresh:
                self._refresh_target()
            if self._n_updates % INTERVAL == FIRST:
                self._inspect()
            self._update_learning_rate(self.policy.optimizer)
            self.ranks.enter("making targets")
            batch = self._sample()
            targets = self._reanalyze(batch)
            self.ranks.enter("updating the networks")
            output = self.updater(tensor_batch(batch, targets, self.device), settings)
            self._n_updates += 1
            self._updates_due = max(self._updates_due - 1, 0)
            self.replay_buffer.update_priorities(batch.slots[:, 0], output.priorities.cpu().numpy())
            logs.append(th.stack([*output.logs.values()]))  # copied, for the next update may overwrite them
            self.logger.record_mean("train/searched_fraction", self.reanalyzer.searched_fraction)
            self.logger.record_mean("train/search_value_fraction", self.reanalyzer.search_value_fraction)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.diagnostics.keep("search", self.reanalyzer.take_statistics())
        self.diagnostics.log_updates(list(output.logs), logs, self.logger, self.num_timesteps, self._total_timesteps)

    def _sample(self) -> TrajectoryBatch:
        """Draw positions with what the losses and the value targets need."""
        replay, targets = self.arguments.replay, self.arguments.targets
        batch = self.replay_buffer.sample(
            self.ranks.share("batch_size", replay.batch_size),
            targets.unroll_steps,
            targets.n_step(self.policy.action_kind),
            replay.priority_beta,
            self.rng,
            self.normalizer,
        )
        return agreed_weights(batch, self.replay_buffer, replay.priority_beta, self.ranks)

    def _reanalyze(self, batch: TrajectoryBatch) -> TrainingTargets:
        """Targets of a batch by the newest copies of the model."""
        return self.reanalyzer.targets(
            batch,
            self.replay_buffer,
            self.policy.average_model,
            self.policy.target_model,
            self.target_version,
            self.arguments.targets.rule(self._n_updates, self.ranks.size),
            self.rng,
            self.normalizer,
        )

    def _refresh_target(self) -> None:
        """Bring the models' statistics up to date and copy the average model to the target model."""
        model, average, normalizer = self.policy.model, self.policy.average_model, self.normalizer
        agree_on_normalization(normalizer, self.ranks)
        self.statistics.set_observations(normalizer, model, average, ranks=self.ranks)
        rewards = self.replay_buffer.stored_rewards(normalizer)
        self.diagnostics.see_rewards(
            rewards, self.replay_buffer, self.arguments.exploration.learning_starts, self.logger
        )
        # Later the unit of the average follows that of the model as the weights do, see ModelCopies.
        coefficient, novelty = self.arguments.exploration.novelty_coef, self.reanalyzer.novelty
        novelty.refresh(coefficient, rewards, self.replay_buffer, average, normalizer, self.rng, self.ranks)
        self.logger.record("values/intrinsic_share", novelty.share)
        self.diagnostics.symptoms.is_intrinsic = novelty.share > 0.0
        models = (model, average) if self.target_version == 0 else (model,)
        set_rewards(rewards, novelty.share * novelty.weight, *models, ranks=self.ranks)
        self.policy.copies.update_target()
        n_stored = int(self.ranks.table([self.replay_buffer.size()]).sum())
        interval = self.arguments.targets.updates_until_refresh(n_stored, self.batch_size)
        # Now nearly all states of the next batch are searched.
        self.reanalyzer.wants_statistics |= interval >= INTERVAL or self._n_updates % INTERVAL == 0
        self._next_refresh = self._n_updates + interval
        self.target_version += 1

    def _inspect(self) -> None:
        """Measure what is logged of values, model and search; nothing of the run changes."""
        targets = self.arguments.targets
        self.diagnostics.inspect(
            self.policy.average_model,
            self.replay_buffer,
            targets.td_fresh / self.ranks.size,
            targets.unroll_steps,
            targets.n_step(self.policy.action_kind),
            self.normalizer,
        )

    def dump_logs(self) -> None:
        """Write the log of the episodes since the last call."""
        self.diagnostics.record_calibration(self.logger)
        super().dump_logs()
