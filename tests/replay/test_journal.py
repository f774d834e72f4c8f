"""The journal: every step survives, comes back to the last bit, and damage is said and never invented away."""

from __future__ import annotations

import copy
import os
import random
import re
import shutil
import signal
import sqlite3
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize

from benchmarks.reliability.journal_kills import damage, transition_sums
from sb3_ezv2 import EfficientZeroV2, TrajectoryReplayBuffer, TransitionJournal
from sb3_ezv2.common.plain_spaces import space_to_plain
from sb3_ezv2.replay.journal import JournalWriter
from sb3_ezv2.replay.journal_format import TABLES
from sb3_ezv2.replay.slots import EMPTY, TRANSITION
from tests.helpers.envs import ProvenanceEnv, RandomEnv
from tests.helpers.tiny import CONTINUOUS, DISCRETE, all_windows, provenance_envs, tiny_model

IMAGE = spaces.Box(0, 255, (1, 6, 8), np.uint8)
PARTS = spaces.Dict(
    {
        "place": spaces.Box(-1.0, 1.0, (2, 2)),
        "digit": spaces.Discrete(4),
        "flags": spaces.MultiBinary(3),
        "choices": spaces.MultiDiscrete([2, 5]),
        "picture": IMAGE,
    }
)


def assert_same_buffers(buffer: TrajectoryReplayBuffer, original: TrajectoryReplayBuffer) -> None:
    """Both hold the same, slot by slot to the last bit, and sample the same batches; open episodes count as cut."""
    original = copy.deepcopy(original)
    original.close_streams()
    filled = original.kinds != EMPTY
    slots = np.flatnonzero(filled)
    assert len(buffer) == len(original) > 0
    for name in ("kinds", "actions", "rewards", "observation_ids"):
        ours, theirs = getattr(buffer, name), getattr(original, name)
        np.testing.assert_array_equal(ours[filled], theirs[filled], err_msg=name)
        assert ours.dtype == theirs.dtype
    observations, expected = buffer.observations_at(slots), original.observations_at(slots)
    for key, value in expected.items():
        assert observations[key].tobytes() == value.tobytes(), key
    np.testing.assert_array_equal(buffer.next_rows, original.next_rows)
    for ours, theirs in zip(all_windows(buffer), all_windows(original), strict=True):
        if isinstance(ours, dict):
            for key, value in ours.items():
                np.testing.assert_array_equal(value, theirs[key])
        else:
            np.testing.assert_array_equal(ours, theirs)


def empty_like(buffer: TrajectoryReplayBuffer) -> TrajectoryReplayBuffer:
    """A new buffer of the same spaces and size."""
    return TrajectoryReplayBuffer(
        buffer.buffer_size, buffer.observation_space, buffer.action_space, buffer.n_envs, n_stack=buffer.n_stack
    )


def rebuilt(path: Path, buffer: TrajectoryReplayBuffer) -> TrajectoryReplayBuffer:
    """A new buffer filled from a journal that must be whole."""
    new = empty_like(buffer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new.add_journal(path)
    return new


def query(path: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """What an SQL statement gives, or changes."""
    connection = sqlite3.connect(path)
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal.sqlite"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EfficientZeroV2]:
    """A closed journal of 40 steps of two environments, and the model that wrote it."""
    path = tmp_path_factory.mktemp("example") / "journal.sqlite"
    model = tiny_model(provenance_envs(2), learning_starts=1_000)
    model.learn(80, callback=TransitionJournal(path))
    return path, model


@pytest.fixture
def journal(example: tuple[Path, EfficientZeroV2], path: Path) -> Path:
    """A copy of that journal."""
    path.parent.mkdir()
    return Path(shutil.copy(example[0], path))


# -- written and read back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("buffer_size", [1_000, 60], ids=["large", "small"])
def test_the_buffer_comes_back_to_the_last_bit(path, n_envs, action_space, buffer_size):
    model = tiny_model(provenance_envs(n_envs, action_space), buffer_size=buffer_size)
    callback = TransitionJournal(path)
    model.learn(45, callback=callback)
    model.learn(21, callback=callback, reset_num_timesteps=False)  # goes on in the open episodes
    assert_same_buffers(rebuilt(path, model.replay_buffer), model.replay_buffer)
    model.learn(33, callback=callback)  # resets the environments
    assert_same_buffers(rebuilt(path, model.replay_buffer), model.replay_buffer)
    assert {file.name for file in path.parent.iterdir()} == {"journal.sqlite"}


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_every_kind_of_observation_comes_back(path, action_space):
    model = tiny_model(RandomEnv(PARTS, action_space), "MultiInputPolicy", learning_starts=1_000)
    model.learn(40, callback=TransitionJournal(path))
    assert_same_buffers(rebuilt(path, model.replay_buffer), model.replay_buffer)


def stacked_images(n_envs: int = 2) -> VecEnv:
    return VecFrameStack(DummyVecEnv([lambda: RandomEnv(IMAGE)] * n_envs), 4)


@pytest.mark.parametrize("buffer_size", [1_000, 24], ids=["large", "small"])
def test_stacks_come_back_and_each_frame_is_written_once(path, buffer_size):
    model = tiny_model(stacked_images(), learning_starts=1_000, buffer_size=buffer_size)
    callback = TransitionJournal(path)
    model.learn(50, callback=callback)
    model.learn(40, callback=callback, reset_num_timesteps=False)
    assert model.replay_buffer.n_stack == 4
    assert_same_buffers(rebuilt(path, model.replay_buffer), model.replay_buffer)
    ends = query(path, "SELECT count(*) FROM transitions WHERE terminated + truncated")[0][0]
    begins = query(path, "SELECT count(*) FROM transitions WHERE first_observation IS NOT NULL")[0][0]
    assert begins == 2  # of two environments
    assert query(path, "SELECT count(*), min(length(data)), max(length(data)) FROM frames") == [
        (90 + ends + begins, 48, 48)
    ]
    whole = TrajectoryReplayBuffer(1_000, model.observation_space, model.action_space, n_envs=2)
    whole.add_journal(path)  # into a buffer that does not stack
    stacking = TrajectoryReplayBuffer(1_000, model.observation_space, model.action_space, n_envs=2, n_stack=4)
    stacking.add_journal(path)
    assert_same_buffers(whole, stacking)


def test_observations_are_those_before_vec_normalize(path):
    env = VecNormalize(provenance_envs(2), gamma=0.99)
    model = tiny_model(env)
    model.learn(60, callback=TransitionJournal(path))
    assert_same_buffers(rebuilt(path, model.replay_buffer), model.replay_buffer)
    assert query(path, "SELECT max(reward) FROM transitions")[0][0] > 10_000  # not normalised either


def test_both_kinds_of_ends_and_open_episodes(example):
    path, _ = example
    rows = query(path, "SELECT env, terminated, truncated, reset_observation IS NOT NULL FROM transitions ORDER BY id")
    for env in (0, 1):  # episodes of 7, 9, 7, 9 steps, which end in turns, and 8 steps of an open one
        ends = [(i + 1, *row[1:]) for i, row in enumerate(row for row in rows if row[0] == env) if any(row[1:])]
        assert ends == [(7, 1, 0, 1), (16, 0, 1, 1), (23, 1, 0, 1), (32, 0, 1, 1), (39, 1, 0, 1)]


def test_another_model_learns_from_a_journal(example):
    path, written_by = example
    model = tiny_model(provenance_envs(2), seed=7)
    model.learn(20)
    summary = model.replay_buffer.add_journal(path)
    assert (summary.n_transitions, summary.step, summary.damage) == (80, 80, ())
    assert len(model.replay_buffer) == 100
    model.learn(60, reset_num_timesteps=False)
    assert model._n_updates > 0
    assert len(written_by.replay_buffer) == 80


def test_a_second_process_continues_a_journal(path):
    first = tiny_model(provenance_envs(2), learning_starts=1_000)
    first.learn(20, callback=TransitionJournal(path))
    second = tiny_model(provenance_envs(2), learning_starts=1_000)
    second.learn(30, callback=TransitionJournal(path))
    both = empty_like(first.replay_buffer)
    assert both.add_journal(path).n_transitions == 50
    assert sorted(transition_sums(both, 0)) == sorted(
        transition_sums(first.replay_buffer, 0) + transition_sums(second.replay_buffer, 0)
    )
    assert len(query(path, "SELECT DISTINCT run FROM transitions")) == 2


def test_two_writers_at_once_join_no_episodes(path):
    """It is not meant to happen, but then every change of the writer cuts the episodes."""
    path.parent.mkdir()
    models = [tiny_model(provenance_envs(1), learning_starts=1_000) for _ in range(2)]
    writers = [JournalWriter(path, model.replay_buffer) for model in models]
    for number, writer in enumerate(writers):
        writer.begin(f"run {number}")
    for step in range(1, 6):
        for model, writer in zip(models, writers, strict=True):
            model.learn(1, reset_num_timesteps=False)
            writer.write(step)
    for writer in writers:
        writer.end()
    buffer = rebuilt(path, models[0].replay_buffer)
    assert len(buffer) == 10
    assert all_windows(buffer).n_ahead.tolist() == [1] * 10


def test_a_journal_can_be_read_while_it_is_written(path):
    seen = []

    class Read(BaseCallback):
        def _on_step(self) -> bool:
            buffer = self.model.replay_buffer  # type: ignore[attr-defined]
            seen.append(empty_like(buffer).add_journal(path))
            return True

    tiny_model(provenance_envs(2), learning_starts=1_000).learn(20, callback=[TransitionJournal(path), Read()])
    assert [(summary.n_transitions, summary.damage) for summary in seen] == [(2 * i, ()) for i in range(1, 11)]


# -- after a checkpoint --------------------------------------------------------------------------------------------


class Copies(BaseCallback):
    """Copies of the buffer by step, as checkpoints would hold them."""

    def _init_callback(self) -> None:
        self.by_step: dict[int, TrajectoryReplayBuffer] = {}

    def _on_step(self) -> bool:
        self.by_step[self.num_timesteps] = copy.deepcopy(self.model.replay_buffer)  # type: ignore[attr-defined]
        return True


def test_what_comes_after_a_checkpoint(path):
    model = tiny_model(provenance_envs(2), learning_starts=1_000)
    model.run_id = "robot 7"
    copies = Copies()
    model.learn(60, callback=[TransitionJournal(path), copies])
    for step, buffer in copies.by_step.items():
        summary = buffer.add_journal(path, after=("robot 7", step))
        assert (summary.n_transitions, summary.damage) == (60 - step, ())
        # Where nothing comes later, open episodes stay open: their environments go on.
        np.testing.assert_array_equal(buffer.frontiers >= 0, step == 60)
        buffer.close_streams()
        assert_same_buffers(buffer, model.replay_buffer)


def test_a_checkpoint_whose_episodes_were_closed(path):
    model = tiny_model(provenance_envs(2), learning_starts=1_000)
    model.run_id = "robot 7"
    copies = Copies()
    model.learn(60, callback=[TransitionJournal(path), copies])
    buffer = copies.by_step[10]
    buffer.close_streams()
    assert buffer.add_journal(path, after=("robot 7", 10)).n_transitions == 50
    assert len(buffer) == 60


def test_later_runs_come_after_a_checkpoint_too(path):
    for name, n_steps in (("first", 20), ("second", 30), ("third", 10)):
        model = tiny_model(provenance_envs(2), learning_starts=1_000)
        model.run_id = name
        model.learn(n_steps, callback=TransitionJournal(path))
    for after, expected in (
        (("first", 0), 60), (("first", 8), 52), (("first", 20), 40), (("second", 0), 40), (("second", 30), 10),
        (("third", 10), 0), (("third", 99), 0), (None, 60),
    ):  # fmt: skip
        assert empty_like(model.replay_buffer).add_journal(path, after=after).n_transitions == expected, after
    with pytest.raises(ValueError, match=r"after=\('fourth', 3\).*first.*after=None"):
        empty_like(model.replay_buffer).add_journal(path, after=("fourth", 3))


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, other",
    [
        ("observation_space", lambda: RandomEnv(spaces.Box(-1.0, 1.0, (3,), np.float64), spaces.Discrete(2))),
        ("action_space", lambda: ProvenanceEnv(0, spaces.Discrete(3))),
    ],
)
def test_a_journal_of_other_spaces_is_refused(journal, name, other):
    model = tiny_model(DummyVecEnv([other] * 2), learning_starts=1_000)
    with pytest.raises(ValueError, match=f"{journal.name} has {name}=.*same environments"):
        model.replay_buffer.add_journal(journal)
    with pytest.raises(ValueError, match=f"{journal.name} has {name}=.*another path"):
        model.learn(10, callback=TransitionJournal(journal))
    assert len(model.replay_buffer) == 0


def test_a_journal_of_another_number_of_environments_is_refused(journal):
    model = tiny_model(provenance_envs(3))
    with pytest.raises(ValueError, match="n_envs=2, not 3"):
        model.replay_buffer.add_journal(journal)


def test_spaces_that_differ_are_told_apart():
    box = spaces.Box(-np.inf, np.inf, (2,))
    several = [
        box, spaces.Box(-1.0, np.inf, (2,)), spaces.Box(-np.inf, np.inf, (2,), np.float64), spaces.Box(-1.0, 1.0, (2,)),
        spaces.Box(np.array([-1.0, -2.0], np.float32), 1.0, (2,)), spaces.Box(-1.0, 1.0, (1, 2)), spaces.Discrete(3),
        spaces.Discrete(3, start=1), spaces.Discrete(4), spaces.MultiBinary(3), spaces.MultiDiscrete([3]),
        spaces.Dict({"a": box}), spaces.Dict({"b": box}), PARTS,
    ]  # fmt: skip
    for i, ours in enumerate(several):
        for k, theirs in enumerate(several):
            assert (space_to_plain(ours) == space_to_plain(theirs)) == (i == k)
    with pytest.raises(ValueError, match="Text"):
        space_to_plain(spaces.Text(3))


def test_what_is_no_journal_is_refused(path, example):
    buffer = empty_like(example[1].replay_buffer)
    with pytest.raises(FileNotFoundError, match="no journal"):
        buffer.add_journal(path)
    path.parent.mkdir()
    for content in (b"", b"not a database at all" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=str(path)):
            buffer.add_journal(path)
    path.unlink()
    query(path, "CREATE TABLE other (a)")
    for use in (buffer.add_journal, lambda p: example[1].learn(2, callback=TransitionJournal(p))):
        with pytest.raises(ValueError, match=f"{path}.*no journal"):
            use(path)
    assert query(path, "SELECT name FROM sqlite_master") == [("other",)]


def test_another_format_version_is_refused(journal, example):
    query(journal, "PRAGMA user_version = 2")
    with pytest.raises(ValueError, match="format version 2"):
        empty_like(example[1].replay_buffer).add_journal(journal)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM transitions; END",
        "CREATE VIEW v AS SELECT * FROM transitions",
        "DROP TABLE frames",
        "ALTER TABLE transitions ADD COLUMN more",
    ],
)
def test_nothing_but_the_tables_is_accepted(journal, example, statement):
    query(journal, statement)
    with pytest.raises(ValueError, match="damaged: its tables"):
        empty_like(example[1].replay_buffer).add_journal(journal)


def test_algorithms_with_other_buffers_are_refused(path):
    with pytest.raises(ValueError, match="DQN has ReplayBuffer"):
        DQN("MlpPolicy", "CartPole-v1").learn(10, callback=TransitionJournal(path))


@pytest.mark.parametrize("synchronous", ["OFF", "normal", 1, None])
def test_settings_that_keep_less_are_refused(synchronous):
    with pytest.raises(ValueError, match="synchronous="):
        TransitionJournal("journal.sqlite", synchronous=synchronous)


def test_full_is_a_setting(path):
    model = tiny_model(provenance_envs(1), learning_starts=1_000)
    model.learn(20, callback=TransitionJournal(path, synchronous="FULL"))
    assert_same_buffers(rebuilt(path, model.replay_buffer), model.replay_buffer)


def test_a_full_disk_is_said_and_nothing_else_is_lost(path):
    model = tiny_model(provenance_envs(1), learning_starts=1_000)
    callback = TransitionJournal(path)
    model.learn(20, callback=callback)

    class FillDisk(BaseCallback):
        def _on_training_start(self) -> None:
            callback._writer._connection.execute("PRAGMA max_page_count = 6")  # as small as it is now

        def _on_step(self) -> bool:
            return True

    with pytest.raises(OSError, match=f"{path} could not be written at step .*full.*disk"):
        model.learn(1_000, callback=[callback, FillDisk()], reset_num_timesteps=False)
    n_whole = empty_like(model.replay_buffer).add_journal(path).n_transitions
    assert n_whole == len(model.replay_buffer) - 1  # all but the one that the error is about
    model.learn(20, callback=callback, reset_num_timesteps=False)
    assert empty_like(model.replay_buffer).add_journal(path).n_transitions == n_whole + 20


# -- damaged -------------------------------------------------------------------------------------------------------


def lost_sums(path: Path, model: EfficientZeroV2) -> tuple[list[int], Any]:
    """Numbers of the steps that a damaged journal does not give back; what it gives back must be as it was."""
    buffer = empty_like(model.replay_buffer)
    with pytest.warns(UserWarning, match=f"{path.name} is damaged"):
        summary = buffer.add_journal(path)
    lost: set[int] = set()
    for env in range(buffer.n_envs):
        found, original = transition_sums(buffer, env), transition_sums(model.replay_buffer, env)
        assert set(found) <= set(original)
        lost |= {number for number, checksum in enumerate(original, 1) if checksum not in found}
    return sorted(lost), summary


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transitions SET reward = reward + 1 WHERE id = 20",
        "UPDATE transitions SET action = X'0000000000000001' WHERE id = 20",
        "UPDATE transitions SET truncated = 1 WHERE id = 20",
        "UPDATE transitions SET next_observation = zeroblob(24) WHERE id = 20",
        "UPDATE transitions SET reset_observation = next_observation WHERE id = 20",
        "UPDATE transitions SET step = 'twenty' WHERE id = 20",
        "UPDATE transitions SET run = 99 WHERE id = 20",
        "DELETE FROM transitions WHERE id = 20",
        "UPDATE transitions SET id = 1000 WHERE id = 20",
    ],
)
def test_a_damaged_row_costs_its_step_and_the_next(journal, example, statement):
    query(journal, statement)
    lost, summary = lost_sums(journal, example[1])
    assert lost == [10, 11]  # the state before step 11 stood in row 20
    assert summary.n_transitions == 76 and summary.step == 80


def test_swapped_rows_are_noticed(journal, example):
    for old, new in ((20, 1_000), (30, 20), (1_000, 30)):
        query(journal, "UPDATE transitions SET id = ? WHERE id = ?", new, old)
    assert lost_sums(journal, example[1])[0] == [10, 11, 15, 16]


def test_a_damaged_frame_costs_the_stacks_that_show_it(path):
    model = tiny_model(stacked_images(1), learning_starts=1_000)
    model.learn(40, callback=TransitionJournal(path))
    query(path, "UPDATE frames SET data = zeroblob(48) WHERE id = 12")
    lost, summary = lost_sums(path, model)
    assert 3 <= len(lost) <= 5 and summary.n_transitions == 40 - len(lost)


def test_a_damaged_run_is_not_trusted(journal, example):
    query(journal, "UPDATE runs SET run_id = 'other'")
    with pytest.raises(ValueError, match="after="):
        empty_like(example[1].replay_buffer).add_journal(journal, after=("other", 10))


def test_a_damaged_description_is_refused(journal, example):
    query(journal, "UPDATE description SET content = replace(content, '2', '3')")
    with pytest.raises(ValueError, match="description does not have its checksum"):
        empty_like(example[1].replay_buffer).add_journal(journal)


def journal_with_log(folder: Path, env: VecEnv) -> tuple[Path, EfficientZeroV2]:
    """A journal as a killed process leaves it: half of it in the database, half in the log beside it."""
    model, copied = tiny_model(env, learning_starts=1_000), folder / "killed.sqlite"

    class Leave(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 60:
                query(folder / "open.sqlite", "PRAGMA wal_checkpoint(TRUNCATE)")
            if self.num_timesteps == 120:
                for suffix in ("", "-wal"):
                    shutil.copy(f"{folder}/open.sqlite{suffix}", f"{copied}{suffix}")
            return self.num_timesteps < 120

    model.learn(1_000, callback=[TransitionJournal(folder / "open.sqlite"), Leave()])
    return copied, model


@pytest.mark.parametrize("kind", ["vectors", "stacks"])
def test_sixty_random_damages_give_an_error_or_the_intact_part(tmp_path, kind):
    source, model = journal_with_log(tmp_path, provenance_envs(2) if kind == "vectors" else stacked_images(2))
    whole = rebuilt(source, model.replay_buffer)
    expected = [transition_sums(whole, env) for env in range(2)]
    rng, path, outcomes = random.Random(0), tmp_path / "damaged.sqlite", []
    for number in range(60):
        for suffix in ("", "-wal"):
            shutil.copy(f"{source}{suffix}", f"{path}{suffix}")
        Path(f"{path}-shm").unlink(missing_ok=True)
        done = damage(Path(f"{path}-wal") if number % 2 else path, rng)
        buffer = empty_like(model.replay_buffer)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                buffer.add_journal(path)
            except (ValueError, OSError) as error:
                assert str(path) in str(error) and "\n" not in str(error), done
                outcomes.append("refused")
                continue
        found = [transition_sums(buffer, env) for env in range(2)]
        assert all(set(ours) <= set(theirs) for ours, theirs in zip(found, expected, strict=True)), done
        assert caught or found == expected, done
        outcomes.append("warned" if caught else "whole")
    assert outcomes.count("warned") > 20 and "whole" in outcomes


def test_a_log_cut_off_is_said(tmp_path):
    path, model = journal_with_log(tmp_path, provenance_envs(2))
    log = Path(f"{path}-wal")
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2 // 4_120 * 4_120 + 32 + 100])
    lost, summary = lost_sums(path, model)
    assert lost[-1] == 60 and lost == list(range(lost[0], 61))
    assert summary.step == 2 * (lost[0] - 1)
    assert "what was written last is lost" in summary.damage[0]


# -- killed --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.parametrize("n_confirmed", [1, 37, 150])
def test_no_confirmed_step_is_lost_when_the_process_is_killed(path, n_confirmed):
    path.parent.mkdir()
    env: gym.Env = ProvenanceEnv()
    buffer = TrajectoryReplayBuffer(10_000, env.observation_space, env.action_space)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        write_for_ever(JournalWriter(path, buffer), env, writing)
    os.close(writing)
    confirmed = b""
    while len(confirmed) < n_confirmed:
        confirmed += os.read(reading, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reading, 4_096):
        confirmed += more
    os.close(reading)
    found = empty_like(buffer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*what was written last is lost")  # a step that was never confirmed
        found.add_journal(path)
    assert len(confirmed) <= len(found) <= len(confirmed) + 1
    places = all_windows(found).observations["observation"][:, 0].tolist()
    lengths = [7, 9] * len(found)
    expected = [[0, episode, step] for episode, length in enumerate(lengths) for step in range(length)]
    assert sorted(places) == expected[: len(found)]


def write_for_ever(writer: JournalWriter, env: gym.Env, pipe: int) -> None:
    """Store steps, write them to the journal and confirm each of them with one byte."""
    writer.begin("killed")
    observation, _ = env.reset()
    for step in range(1, 10_000):
        following, reward, terminated, truncated, _ = env.step(0)
        info = {"terminal_observation": following, "TimeLimit.truncated": truncated}
        if terminated or truncated:
            following, _ = env.reset()
        ended = np.array([terminated or truncated])
        writer.buffer.add(observation[None], following[None], np.zeros(1), np.array([reward]), ended, [info])
        observation = following
        writer.write(step)
        os.write(pipe, b".")
    os._exit(0)


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    page = Path(__file__).parents[2] / "docs" / "journal.md"
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(example, names)
    buffer = names["model"].replay_buffer
    slots = np.flatnonzero(buffer.kinds == TRANSITION)[:300]
    np.testing.assert_array_equal(names["observations"], buffer.observations_at(slots)["observation"])
    np.testing.assert_array_equal(names["actions"][:, 0], buffer.actions.reshape(-1)[slots])
    lengths = [int(length) for length in names["returns"]]
    assert sum(lengths) == 300 and len(lengths) > 5  # every step of CartPole pays 1


def test_the_tables_are_those_of_the_documentation(example):
    assert dict(query(example[0], "SELECT name, sql FROM sqlite_master")) == TABLES
    page = (Path(__file__).parents[2] / "docs" / "journal.md").read_text(encoding="utf-8")
    for name, statement in TABLES.items():
        columns = re.findall(r"[(,] ?(\w+) (?:INTEGER|TEXT|REAL|BLOB)", statement)
        assert len(columns) >= 2
        for word in (name, *columns):
            assert f"`{word}`" in page, word
