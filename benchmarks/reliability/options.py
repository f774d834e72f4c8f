"""Every command-line option times one fixed list of values: how many wrong ones are accepted or refused obscurely.

    python -m benchmarks.reliability.options

A refusal is clear if the command leaves with one line on the standard error stream that names the option, or what was
given in place of one. Options come from the parsers, values from the lists below, and what is right from ``RIGHT``.
Every command runs up to where it would begin to learn, to tune, to act or to fetch.
"""

import argparse
import contextlib
import io
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import optuna

from sb3_ezv2 import EfficientZeroV2, command_line
from sb3_ezv2.zoo import options, plots
from sb3_ezv2.zoo.estimating import Estimation
from sb3_ezv2.zoo.experiment import Experiment
from sb3_ezv2.zoo.search_space import sample_ezv2_params
from sb3_ezv2.zoo.tuning import open_storage

VALUES = (
    *("", " ", "x", "é", "no/such/place", "a_file", "a_file/below"),
    *("-1", "-7", "0", "1", "3", "1.5", "-0.5", "1e3", "10**6", "0x10", "99999999999999999999", "nan", "inf"),
    *("True", "None", "[]", "{}", "a:b", "*"),
)
"""For options of the command line."""
PYTHON_VALUES = (
    *("0", "-1", "1", "2", "1.5", "-0.5", "10**30", "float('nan')", "float('inf')", "True", "None", "1/0", "nonsense"),
    *(
        "''",
        "' '",
        "'x'",
        "'no.such.Name'",
        "'os.path.join'",
        "b'x'",
        "[]",
        "['x']",
        "(1,2)",
        "{}",
        "{'x':1}",
        "object",
    ),
)
"""For hyperparameters."""
COMMANDS: dict[str, list[str]] = {
    "train": ["--env", "CartPole-v1", "-n", "10", "--verbose", "0", "-f", "runs"],
    "enjoy": ["--env", "CartPole-v1", "--no-render"],
    "record_video": ["--env", "CartPole-v1"],
    "push_to_hub": ["--env", "CartPole-v1", "-orga", "us", "--dry-run", "--no-render"],
    "load_from_hub": ["--env", "CartPole-v1", "-orga", "us", "--local", "hub"],
    "plot": ["-o", "picture.png"],
    "inspect": ["--env", "CartPole-v1"],
    "estimate": ["--env", "CartPole-v1", "-n", "10"],
}
TUNING = {
    *("--n-trials", "--max-total-trials", "--n-jobs", "--sampler", "--pruner", "--n-startup-trials", "--n-evaluations"),
    *("--storage", "--study-name", "--optimization-log-path"),
}
WITHOUT_EFFECT = {"estimate": {"--log-folder", "--eval-freq", *TUNING}}
"""Options that a command takes, because ``ezv2-train`` does, and has no use for."""
COUNTS = {"1", "3"}
PLACES = set(VALUES) - {"", " ", "a_file", "a_file/below"}
ANY_NAME = set(VALUES) - {"", " "}
OF_THE_HUB = ANY_NAME - {"é", "no/such/place", "a_file/below", "-1", "-7", "-0.5", "10**6", "[]", "{}", "a:b", "*"}
RIGHT: dict[str, set[str]] = {
    **dict.fromkeys(
        ("--n-trials", "--max-total-trials", "--n-evaluations", "--eval-episodes", "--n-eval-envs"), COUNTS
    ),
    **dict.fromkeys(("--n-envs", "--episode-window", "--n-episodes", "--max-steps"), COUNTS),
    **dict.fromkeys(("--num-threads", "--n-jobs"), {"-1", *COUNTS}),
    **dict.fromkeys(("load_from_hub --exp-id", "train --seed", "estimate --seed"), {"-1", "0", *COUNTS}),
    **dict.fromkeys(("--n-startup-trials", "--seed", "--load-checkpoint"), {"0", *COUNTS}),
    "--exp-id": {"0", "1"},  # there is one run
    "--trial-id": {"0"},  # and one trial
    "--n-timesteps": COUNTS,
    **dict.fromkeys(("train --n-timesteps", "estimate --n-timesteps"), {"-1", *COUNTS}),
    "--verbose": {"0", "1"},
    "--log-interval": {"-1", *COUNTS},
    "--eval-freq": {"-1", "-7", *COUNTS},
    "--save-freq": {"-1", "-7", *COUNTS},
    "--truncate-last-trajectory": {"True"},
    "--max-timesteps": {"1", "3", "1.5", "1e3", "99999999999999999999"},
    **dict.fromkeys(("--log-folder", "--optimization-log-path", "--output-folder"), PLACES),
    **dict.fromkeys(("--reward-log", "--tensorboard-log"), PLACES),
    "load_from_hub --folder": PLACES,
    **dict.fromkeys(("--study-name", "--wandb-project-name", "--wandb-entity", "--wandb-group"), ANY_NAME),
    **dict.fromkeys(("--wandb-tags", "--commit-message", "--labels"), ANY_NAME),
    **dict.fromkeys(("--organization", "--repo-name"), OF_THE_HUB),
}
"""Values that an option takes, besides its choices; of one command alone where that stands before it."""
HYPERPARAMETERS: dict[str, set[str]] = {
    "n_timesteps": {"1", "2"},
    "n_envs": {"1", "2"},
    "policy": set(),
    "normalize": {"True", "{}"},
    "frame_stack": {"1", "2"},
    "env_wrapper": {"None", "[]"},
    "vec_env_wrapper": {"None", "[]"},
    "callback": {"None", "[]"},
    "env_kwargs": {"{}"},
    "monitor_kwargs": {"{}"},
    "learning_rate": {"1", "2", "1.5", "10**30"},
    "policy_kwargs": {"{}", "None"},
    "replay_buffer_class": {"None"},
    "replay_buffer_kwargs": {"{}", "None"},
    "noise_type": set(),
    "noise_std": set(),
    "no_such_name": set(),
}


class Accepted(BaseException):
    """A command would now begin."""


class Case(NamedTuple):
    """One command line."""

    command: str
    option: str
    names: tuple[str, ...]  # one of which a refusal must hold
    arguments: list[str]
    is_right: bool


def actions_of(command: str) -> list[argparse.Action]:
    """Options of a command, from its parser."""
    found: list[argparse.Action] = []

    def capture(parser: argparse.ArgumentParser, *_: Any) -> None:
        found.extend(action for action in parser._actions if action.dest != "help")
        raise Accepted

    with mock.patch.object(options, "parse_args", capture), contextlib.suppress(Accepted):
        command_line.run(command, COMMANDS[command])
    assert found, command
    return found


def cases(command: str) -> Iterator[Case]:
    """All command lines of a command."""
    for action in actions_of(command):
        option = max(action.option_strings, key=len)
        if option in WITHOUT_EFFECT.get(command, ()):
            continue
        names = (*action.option_strings, "unrecognized arguments")
        base = COMMANDS[command] + (["-optimize"] if option in TUNING else [])
        if option == "--trial-id":
            base = [*base, "--storage", "study.log", "--study-name", "study"]
        right = RIGHT.get(f"{command} {option}", RIGHT.get(option, set())) | set(action.choices or ())
        given = NAMED if isinstance(action, options.NamedValues) else VALUES
        for value in with_few_right(given, right):
            yield Case(command, option, names, [*base, option, value], value in right)
    if command == "train":
        for name, right in HYPERPARAMETERS.items():
            for value in with_few_right(PYTHON_VALUES, right):
                yield Case(command, name, (name,), [*COMMANDS[command], "-params", f"{name}:{value}"], value in right)


def with_few_right(values: Sequence[str], right: set[str]) -> list[str]:
    """Values of which at most two are right: those take long, and show only that not everything is refused."""
    few = [value for value in values if value in right][:2]
    return [value for value in values if value in few or value not in right]


NAMED = ("", " ", "x", ":", "gamma:", ":1", "gamma:nonsense", "gamma:1/0", "gamma:(", "gamma:1 2", "gamma:open('no')")


@contextlib.contextmanager
def stage() -> Iterator[None]:
    """A folder with a model, where every command stops when it would begin."""

    def begin(*_: Any, **__: Any) -> None:
        raise Accepted

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            Path("a_file").write_text("something")
            run = Path("logs/ezv2/CartPole-v1_1")
            (run / "CartPole-v1").mkdir(parents=True)
            network = {"latent_dim": 16, "hidden_dim": 16, "projection_dim": 16}
            model = EfficientZeroV2("MlpPolicy", "CartPole-v1", policy_kwargs=network, device="cpu")
            for name in ("CartPole-v1", "best_model", *(f"rl_model_{n}_steps" for n in (0, 1, 3))):
                model.save(run / name)
            (run / "CartPole-v1" / "args.yml").write_text("env: CartPole-v1\nenv_kwargs: null\n")
            Path("hub").mkdir()
            np.savez(run / "evaluations.npz", timesteps=[10], results=[[1.0]])
            study = optuna.create_study(study_name="study", storage=open_storage("study.log"))
            sample_ezv2_params(study.ask(), 0, 1, {})
            with (
                mock.patch.object(Experiment, "learn", begin),
                mock.patch.object(Estimation, "learn", begin),
                mock.patch.object(optuna.Study, "optimize", begin),
                mock.patch.object(EfficientZeroV2, "load", begin),
                mock.patch.object(plots, "new_figure", begin),
                mock.patch("sb3_ezv2.zoo.commands.fetch", begin),
                mock.patch("sb3_ezv2.zoo.commands.local_file", lambda _: begin),
            ):
                yield
        finally:
            os.chdir(before)


def outcome(case: Case) -> str:
    """What becomes of a command line: ``""`` if that is right, otherwise what is wrong with it."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            command_line.run(case.command, case.arguments)
    except Accepted:
        return "" if case.is_right else "wrongly accepted"
    except SystemExit as left:
        lines = [line for line in errors.getvalue().splitlines() if line.startswith("ezv2-")]
        said = "; ".join(lines)
        if left.code in (0, None):
            return f"wrongly accepted: {said}"
        if case.is_right:
            return f"wrongly refused: {said}"
        return "" if len(lines) == 1 and any(name in said for name in case.names) else f"obscure: {said}"
    except BaseException as error:
        return f"obscure: {type(error).__name__}: {error}"
    return f"obscure: it ended without a word, {errors.getvalue()[-200:]!r}"


def faults(command: str, counts: Counter[str]) -> list[str]:
    """What is wrong with a command's answers.

    :param counts: what happened, by kind, added to
    """
    found = []
    for case in cases(command):
        wrong = outcome(case)
        counts["cases"] += 1
        counts["right" if case.is_right else "wrong"] += 1
        if wrong:
            counts[wrong.split(":")[0]] += 1
            found.append(f"ezv2-{case.command} {' '.join(map(repr, case.arguments))}: {wrong}")
    return found


def main() -> None:
    """Run and count."""
    counts: Counter[str] = Counter()
    with stage():
        for command in COMMANDS:
            for fault in faults(command, counts):
                print(fault)
    print(
        f"{counts['cases']} command lines, {counts['wrong']} of them wrong: {counts['obscure']} obscure, "
        f"{counts['wrongly accepted']} wrongly accepted, {counts['wrongly refused']} wrongly refused"
    )
    raise SystemExit(any(counts[kind] for kind in ("obscure", "wrongly accepted", "wrongly refused")))


if __name__ == "__main__":
    main()
