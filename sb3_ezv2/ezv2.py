"""EfficientZero V2 as a Stable-Baselines3 algorithm: collects, replays, reanalyses, learns."""

from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    RolloutReturn,
    Schedule,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.utils import LinearSchedule, should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.checkpoints import CheckpointedAlgorithm
from sb3_ezv2.common.arguments import check_arguments, td_steps_or_default
from sb3_ezv2.common.spaces import check_action_space, check_observation_space, named_arrays, random_actions
from sb3_ezv2.common.tensors import to_tensors, torch_threads
from sb3_ezv2.compatibility import bring_up_to_date
from sb3_ezv2.learning.losses import LossCoefficients, tensor_batch
from sb3_ezv2.learning.reanalyze import MixedValueRule, Reanalyzer
from sb3_ezv2.learning.statistics import DataStatistics, set_rewards
from sb3_ezv2.learning.updates import Updater, UpdateSettings
from sb3_ezv2.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, PlanningPolicy, policy_for
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.replay_algorithm import NO_ROLLOUT

DEFAULT_LEARNING_RATE = LinearSchedule(1e-3, 1e-4, 1.0)
"""Falls linearly from 1e-3 to 1e-4 over the run."""

SelfEfficientZeroV2 = TypeVar("SelfEfficientZeroV2", bound="EfficientZeroV2")


class EfficientZeroV2(CheckpointedAlgorithm):
    """EfficientZero V2 (EZ-V2): plans in a learned model, with discrete or continuous actions.

    Paper: https://arxiv.org/abs/2403.00564. The defaults are for runs of a few thousand to a hundred thousand steps on
    a CPU; the page "Deviations from the paper" lists what differs from the paper's settings and why.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a policy class
    :param env: environment, or its id if registered
    :param learning_rate: of the optimiser, or a function of the remaining progress (from 1 to 0); by default it falls
        linearly from 1e-3 to 1e-4
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
    :param random_repeat: steps that each random action before ``learning_starts`` is held for. Independent actions
        cancel each other; held ones, which are at the bounds where actions are continuous, reach states that lie far
        away, such as the goal of MountainCar
    :param n_simulations: model calls per search
    :param n_candidates: actions sampled at the root of a search; ``Discrete`` always has all of them. The prior over
        sampled actions is uniform, so those beyond ``n_considered`` are never visited
    :param n_considered: candidates that sequential halving starts with; ``None`` for half the simulations, at most all
    :param n_policy_candidates: candidates that come from the policy itself while exploring, the others come from the
        policy with a larger standard deviation (paper, section 4.1)
    :param flatten_factor: multiplies that standard deviation
    :param unroll_steps: dynamics steps of the loss
    :param td_steps: rewards in the multi-step value target; ``None`` for 10 with discrete actions and 5 with others
    :param td_phase: T1 of the mixed value target: until then it is the multi-step return everywhere. A number of
        updates (``int``) or a fraction of the run (``float``)
    :param td_fresh: T2 of the mixed value target: the newest states keep the multi-step return, and at any age the last
        few before a terminal end. A number of observations (``int``) or a fraction of the run (``float``)
    :param target_update_interval: updates between two copies of the average to the target network
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
    :param policy_kwargs: further arguments of the policy, see :class:`~sb3_ezv2.policies.EZV2Policy` and
        :class:`~sb3_ezv2.policies.CnnPolicy`
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
    _random_actions: np.ndarray | None = None  # held before learning_starts

    def __init__(
        self,
        policy: str | type[PlanningPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = DEFAULT_LEARNING_RATE,
        buffer_size: int = 1_000_000,
        learning_starts: int = 200,
        batch_size: int = 64,
        tau: float = 0.05,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = -1,
        replay_buffer_class: type[TrajectoryReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        random_repeat: int = 1,
        n_simulations: int = 16,
        n_candidates: int = 16,
        n_considered: int | None = None,
        n_policy_candidates: int = 4,
        flatten_factor: float = 3.0,
        unroll_steps: int = 5,
        td_steps: int | None = None,
        td_phase: int | float = 0.1,
        td_fresh: int | float = 1_000,
        target_update_interval: int = 50,
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
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        self.buffer_size = buffer_size
        self.learning_starts = learning_starts
        self.batch_size = batch_size
        self.tau = tau
        self.gamma = gamma
        self.train_freq = train_freq
        self.gradient_steps = gradient_steps
        self.replay_buffer_class = replay_buffer_class
        self.replay_buffer_kwargs = replay_buffer_kwargs
        self.random_repeat = random_repeat
        self.n_simulations = n_simulations
        self.n_candidates = n_candidates
        self.n_considered = n_considered
        self.n_policy_candidates = n_policy_candidates
        self.flatten_factor = flatten_factor
        self.unroll_steps = unroll_steps
        self.td_steps = td_steps
        self.td_phase = td_phase
        self.td_fresh = td_fresh
        self.target_update_interval = target_update_interval
        self.priority_beta = priority_beta
        self.reward_coef = reward_coef
        self.value_coef = value_coef
        self.policy_coef = policy_coef
        self.consistency_coef = consistency_coef
        self.ent_coef = ent_coef
        self.max_grad_norm = max_grad_norm
        self.mixed_precision = mixed_precision
        self.use_target_cache = use_target_cache
        self.n_threads = n_threads
        self.target_version = 0
        self._n_updates = 0
        if _init_setup_model:
            self._setup_model()

    # -- set-up ----------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        super()._setup_model()
        bring_up_to_date(vars(self))
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        check_action_space(self.action_space)
        check_observation_space(self.observation_space)
        self._n_step = td_steps_or_default(self.td_steps, self.action_space)
        check_arguments(vars(self))
        if not issubclass(self.policy_class, PlanningPolicy):
            raise ValueError(
                f"policy={self.policy_class} is not a policy of this algorithm; use 'MlpPolicy' or a subclass"
            )
        policy_class = policy_for(self.policy_class, self.observation_space, self.policy_kwargs)
        self.replay_buffer = self._new_replay_buffer()
        self.policy = policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            gamma=self.gamma,
            n_simulations=self.n_simulations,
            n_candidates=self.n_candidates,
            n_considered=self.n_considered,
            n_policy_candidates=self.n_policy_candidates,
            flatten_factor=self.flatten_factor,
            **self.policy_kwargs,
        ).to(self.device)
        self.policy.seed_planning(self.seed)
        self.updater = Updater(self.policy.copies)
        head = self.policy.model.action_head
        self.reanalyzer = Reanalyzer(self.policy.planner, self.action_space, head.n_targets, self.use_target_cache)
        frequency, unit = self.train_freq if isinstance(self.train_freq, tuple) else (self.train_freq, "step")
        self._train_freq = TrainFreq(frequency, TrainFrequencyUnit(unit))
        if not hasattr(self, "statistics"):  # a loaded model brings its own
            self.statistics = DataStatistics(len(self.policy.model.observation_mean))

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed everything: torch, numpy, the action space, the environments, replay and search."""
        super().set_random_seed(seed)
        self.rng = np.random.default_rng(seed)
        if getattr(self, "policy", None) is not None:
            self.policy.seed_planning(seed)

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Set the parameters of the policy and its optimiser; see ``SavedAlgorithm.set_parameters``."""
        super().set_parameters(*args, **kwargs)
        self.reanalyzer.cache.clear()
        self.statistics.read_observations(self.policy.model)

    def _replay_buffer_loaded(self) -> None:
        self.reanalyzer.cache.clear()
        self.statistics.restart(self._flat(part) for part in self.replay_buffer.stored_observations())

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
        """Collect ``total_timesteps`` transitions and learn from them; see ``BaseAlgorithm.learn``."""
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        assert self.env is not None
        callback.on_training_start(locals(), globals())
        with torch_threads(self.n_threads if self.device.type == "cpu" else None):
            while self.num_timesteps < total_timesteps or self._is_in_between:
                if not self._updates_due:
                    rollout = self.collect_rollouts(self.env, callback, self._train_freq, log_interval)
                    if not rollout.continue_training:
                        break
                    self._updates_due = rollout.episode_timesteps if self.gradient_steps < 0 else self.gradient_steps
                if self.num_timesteps > self.learning_starts and len(self.replay_buffer) >= self.batch_size:
                    self.train(self._updates_due)
                self._updates_due = 0
        callback.on_training_end()
        return self

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, train_freq: TrainFreq, log_interval: int | None = None
    ) -> RolloutReturn:
        """Step all environments until ``train_freq`` is reached and store what happens.

        :param env: the training environments
        :param callback: called after every step
        :param train_freq: how much to collect
        :param log_interval: log every so many episodes
        :return: transitions, episodes, and whether the callbacks want to go on
        """
        n_steps, n_transitions, n_episodes = self._begun_rollout
        callback.on_rollout_start()
        self._dump_logs_if_due(log_interval)
        while should_collect_more_steps(train_freq, n_steps, n_episodes):
            actions = self._choose_actions(env.num_envs)
            with self._whole_step():
                new_obs, rewards, dones, infos = env.step(self.policy.to_env_actions(actions))
                self._store(actions, new_obs, rewards, dones, infos)
            n_steps, n_transitions, n_episodes = self._count_step(infos, dones)
            callback.update_locals(locals())
            if not callback.on_step():
                return RolloutReturn(n_transitions, n_episodes, continue_training=False)
            self._dump_logs_if_due(log_interval)
        callback.on_rollout_end()
        self._begun_rollout = NO_ROLLOUT
        return RolloutReturn(n_transitions, n_episodes, continue_training=True)

    def _choose_actions(self, n_envs: int) -> np.ndarray:
        """Actions counted from 0 or scaled to [-1, 1]: random ones first, then those of an exploring search."""
        if self.num_timesteps < self.learning_starts:
            if self._random_actions is None or self.num_timesteps // n_envs % self.random_repeat == 0:
                held = self.random_repeat > 1
                self._random_actions = random_actions(self.action_space, (n_envs,), self.rng, extreme=held)
            return self._random_actions
        assert self._last_obs is not None
        tensors, _ = self.policy.obs_to_tensor(self._last_obs)
        return self.policy.search(tensors).actions

    def _store(
        self, actions: np.ndarray, new_obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """Add one step of every environment to the replay buffer and to the statistics."""
        self._add_to_buffer(actions, new_obs, rewards, dones, infos)
        assert self._last_original_obs is not None
        self.statistics.update(self._flat(self._last_original_obs))

    def _flat(self, observations: Any) -> np.ndarray:
        """Observations of several environments as the model flattens them ``[n, observation_dim]``."""
        tensors = to_tensors(named_arrays(observations), self.device)
        return self.policy.model.flatten(tensors).cpu().numpy()

    # -- learning --------------------------------------------------------------------------------------------------

    def train(self, gradient_steps: int) -> None:
        """Make ``gradient_steps`` updates.

        Each samples a batch, brings its targets up to date, takes one optimiser step and updates the priorities.
        """
        if gradient_steps < 1:
            return
        self._update_learning_rate(self.policy.optimizer)
        self.reanalyzer.prioritise_new(self.policy.average_model, self.replay_buffer, self._vec_normalize_env)
        coefficients = LossCoefficients(
            self.reward_coef, self.value_coef, self.policy_coef, self.consistency_coef, self.ent_coef
        )
        settings = UpdateSettings(coefficients, self.max_grad_norm, self.tau, self.mixed_precision)
        for _ in range(gradient_steps):
            if self._n_updates % self.target_update_interval == 0:
                self._refresh_target()
            batch = self.replay_buffer.sample(
                self.batch_size, self.unroll_steps, self._n_step, self.priority_beta, self.rng, self._vec_normalize_env
            )
            targets = self.reanalyzer.targets(
                batch,
                self.replay_buffer,
                self.policy.average_model,
                self.policy.target_model,
                self.target_version,
                self._value_rule(),
                self.rng,
                self._vec_normalize_env,
            )
            tensors = tensor_batch(batch, targets, self.device)
            output = self.updater(tensors, settings)
            self._n_updates += 1
            self._updates_due = max(self._updates_due - 1, 0)
            self.replay_buffer.update_priorities(batch.slots[:, 0], output.priorities.cpu().numpy())
        self._log_update(output.logs)

    def _value_rule(self) -> MixedValueRule:
        """T1 and T2 as they stand now; fractions refer to the run's planned length."""
        progress = (self.num_timesteps - self.learning_starts) / max(self._total_timesteps - self.learning_starts, 1)
        done = progress if isinstance(self.td_phase, float) else self._n_updates
        fresh = self.td_fresh * self._total_timesteps if isinstance(self.td_fresh, float) else self.td_fresh
        return MixedValueRule(td_phase=done < self.td_phase, fresh=fresh)

    def _refresh_target(self) -> None:
        """Bring the models' statistics up to date and copy the average model to the target model."""
        model, average, normalizer = self.policy.model, self.policy.average_model, self._vec_normalize_env
        self.statistics.set_observations(normalizer, model, average)
        rewards = self.replay_buffer.stored_rewards(normalizer)
        # Later the unit of the average follows that of the model as the weights do, see ModelCopies.
        set_rewards(rewards, *((model, average) if self.target_version == 0 else (model,)))
        self.policy.copies.update_target()
        self.target_version += 1

    def _log_update(self, logs: dict[str, th.Tensor]) -> None:
        """Record the last update."""
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/searched_fraction", self.reanalyzer.searched_fraction)
        for name, value in zip(logs, th.stack(list(logs.values())).tolist(), strict=True):
            self.logger.record(f"train/{name}", value)
