"""Updates that a GPU records and repeats, run on the CPU, where recording means calling the same function again."""

from __future__ import annotations

import contextlib

import pytest
import torch as th

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.common.ranks import ALONE, Ranks
from sb3_ezv2.common.recording import Recorder
from sb3_ezv2.learning.losses import TensorBatch
from sb3_ezv2.learning.updates import WARM_UPS, RecordedUpdate, Updater, find_gradient, update
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import CONTINUOUS, DISCRETE, TINY_NETWORK, assert_same_parameters, tiny_model
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK
from tests.planning.test_device_search import Traffic

ACTION_SPACES = pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
POLICIES = pytest.mark.parametrize(
    "policy, network, space",
    [("MlpPolicy", TINY_NETWORK, None), ("CnnPolicy", {**TINY_IMAGE_NETWORK, "value_prefix": True}, GREY)],
)


def recording_model(record: bool = True, env: RandomEnv | None = None, policy: str = "MlpPolicy", **kwargs):
    """A model whose updates go through a recorder of the CPU, if ``record``."""
    model = tiny_model(env or RandomEnv(), policy, **kwargs)
    model.updater = Updater(model.policy.copies, Recorder(th.device("cpu")) if record else None)
    return model


@POLICIES
@ACTION_SPACES
def test_recorded_updates_equal_the_others(policy, network, space, action_space):
    """To the last bit, with a learning rate that changes before every update."""

    def run(record: bool) -> EfficientZeroV2:
        env = RandomEnv(space, action_space)
        return recording_model(record, env, policy, policy_kwargs=network).learn(60)

    model = run(True)
    assert isinstance(model.updater.recorded, RecordedUpdate) and model.updater.recorded.steps_too
    assert_same_parameters(model, run(False))
    rates = [float(rate) for rate in model.updater.recorded.rates]
    assert rates == [pytest.approx(group["lr"]) for group in model.policy.optimizer.param_groups]
    assert not any(group["capturable"] for group in model.policy.optimizer.param_groups)


def test_optimisers_that_cannot_be_recorded_step_afterwards():
    settings = {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}, **TINY_NETWORK}

    def run(record: bool) -> EfficientZeroV2:
        return recording_model(record, policy_kwargs=settings, learning_rate=0.01).learn(60)

    model = run(True)
    assert not model.updater.recorded.steps_too
    assert_same_parameters(model, run(False))


def test_among_several_ranks_the_recorded_part_ends_with_the_own_gradient():
    """What the ranks do together, and what follows, is not recorded; with equal ranks it is the update of one."""

    class Twin(Ranks):
        size, n_averaged = 2, 0

        def average_gradients(self, parameters):
            self.n_averaged += 1

    def run(record: bool) -> EfficientZeroV2:
        model = recording_model(record)
        model.updater.ranks = twin if record else ALONE
        return model.learn(60)

    twin = Twin()
    model = run(True)
    assert isinstance(model.updater.recorded, RecordedUpdate) and not model.updater.recorded.steps_too
    assert twin.n_averaged == model._n_updates
    assert_same_parameters(model, run(False))


def test_a_recorded_step_reads_its_learning_rate_from_memory(monkeypatch):
    """While it is recorded the optimiser sees tensors, and everything is as before afterwards."""
    seen = []
    model = recording_model()
    optimizer = model.policy.optimizer

    def record(self, function, pool=None, generator=None):
        seen.extend((group["lr"], group["capturable"]) for group in optimizer.param_groups)
        return function

    monkeypatch.setattr(Recorder, "capture", record)
    model.learn(60)
    assert [(type(lr), capturable) for lr, capturable in seen] == [(th.Tensor, True)]
    assert seen[0][0] is model.updater.recorded.rates[0]
    assert all(isinstance(group["lr"], float) for group in optimizer.param_groups)


def test_what_changes_is_recorded_anew(tmp_path):
    model = recording_model().learn(60)
    first = model.updater.recorded
    model.learn(5, reset_num_timesteps=False)
    assert model.updater.recorded is first
    model.ent_coef = 0.1  # another setting
    model.learn(WARM_UPS, reset_num_timesteps=False)
    assert model.updater.recorded is None
    model.learn(2, reset_num_timesteps=False)
    second = model.updater.recorded
    assert second is not None and second is not first and second.settings.coefficients.entropy == 0.1
    model.save(tmp_path / "model")
    model.set_parameters(tmp_path / "model")  # the optimiser's state lies elsewhere
    model.learn(WARM_UPS + 2, reset_num_timesteps=False)
    assert model.updater.recorded not in (None, first, second)


def test_what_changes_has_its_effect():
    """Recorded or not, changed settings and loaded parameters give the same model."""

    def run(record: bool) -> EfficientZeroV2:
        model = recording_model(record).learn(50)
        parameters = model.get_parameters()
        model.ent_coef, model.tau = 0.5, 0.5
        model.learn(10, reset_num_timesteps=False)
        model.set_parameters(parameters)
        return model.learn(10, reset_num_timesteps=False)

    assert_same_parameters(run(True), run(False))


def test_where_no_graph_can_be_recorded_training_goes_on_without(monkeypatch):
    def refuse(self, function, pool=None, generator=None):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Recorder, "capture", refuse)
    model = recording_model()
    with pytest.warns(UserWarning, match="no CUDA graph can be recorded.*not permitted") as caught:
        model.learn(60)
    assert len([warning for warning in caught if "CUDA graph" in str(warning.message)]) == 1
    monkeypatch.undo()
    assert_same_parameters(model, recording_model(False).learn(60))


def test_on_the_cpu_nothing_is_recorded():
    model = tiny_model(RandomEnv()).learn(50)
    assert model.updater.recorder is None and model.updater.recorded is None


@POLICIES
@ACTION_SPACES
def test_an_update_never_leaves_the_device(policy, network, space, action_space, monkeypatch):
    """On tensors without numbers: reading one would fail, and a copy from or to the host would be seen."""
    model = tiny_model(RandomEnv(space, action_space), policy, policy_kwargs=network).learn(35)
    kept = []

    def keep(batch: TensorBatch, settings):
        kept.append((batch, settings))
        return update(model.policy.copies, batch, settings)

    model.updater = keep
    model.train(1)
    (batch, settings), copies = kept[0], model.policy.to("meta").copies
    # Unlike the way to a GPU, that to "meta" makes new parameters.
    copies.trained, copies.averaged = (list(part.parameters()) for part in (copies.model, copies.average))
    observations = {key: part.to("meta") for key, part in batch.observations.items()}
    batch = TensorBatch(observations, *(part.to("meta") for part in batch[1:]))
    monkeypatch.setattr(th, "autocast", lambda *arguments, **settings: contextlib.nullcontext())  # not for "meta"
    with Traffic() as traffic:
        find_gradient(copies, batch, settings)
        copies.update_average(0.1)
    assert traffic.n > 500
    assert not {name for name in traffic.mixed if not name.startswith("profiler.")}
    assert all(parameter.grad is not None for parameter in copies.model.parameters())
