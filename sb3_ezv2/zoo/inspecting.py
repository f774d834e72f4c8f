"""Look inside the model of a run: its values, its imagination and its searches, as one page with pictures."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from huggingface_sb3 import EnvironmentName
from rl_zoo3 import ALGOS
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_ezv2.inspection import inspect_model
from sb3_ezv2.inspection.page import meaning, number_text
from sb3_ezv2.zoo import ALGO
from sb3_ezv2.zoo.checks import check_folder
from sb3_ezv2.zoo.options import NamedValues
from sb3_ezv2.zoo.settings_files import read_run, saved_hyperparams
from sb3_ezv2.zoo.stored_models import checked_model_path, create_env_as_trained


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; options that ``ezv2-enjoy`` has are called as there."""
    parser = argparse.ArgumentParser(prog="ezv2-inspect", description=__doc__)
    parser.add_argument("--env", type=EnvironmentName, required=True, help="environment of the run")
    parser.add_argument("--algo", choices=sorted(ALGOS), default=ALGO, help="algorithm of the run")
    parser.add_argument("-f", "--folder", default="logs", help="log folder")
    parser.add_argument("--exp-id", type=int, default=0, help="number of the run, 0 for the latest")
    parser.add_argument("--load-best", action="store_true", help="the best model instead of the last")
    parser.add_argument("--load-checkpoint", type=int, help="the model of that step, saved with --save-freq")
    parser.add_argument("--load-last-checkpoint", action="store_true", help="the last model saved with --save-freq")
    parser.add_argument("-n", "--n-episodes", type=int, default=5, help="episodes to play")
    parser.add_argument("--max-steps", type=int, default=2_000, help="steps of all episodes together, at most")
    parser.add_argument("--stochastic", action="store_true", help="explore instead of playing greedily")
    parser.add_argument("--no-render", action="store_true", help="without the rendered frame")
    parser.add_argument("--seed", type=int, default=0, help="of the environment and of exploration")
    parser.add_argument("--device", default="auto", help="where the model computes")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="packages that register environments")
    parser.add_argument("--env-kwargs", nargs="+", action=NamedValues, help="arguments of the environment")
    parser.add_argument("-o", "--output", type=Path, help="page to write, inspection.html in the run's folder")
    options = parser.parse_args(arguments)
    if options.algo != ALGO:
        raise ValueError(f"--algo {options.algo}: only models of {ALGO} plan, so only they can be inspected")
    if options.output is not None and options.output.suffix not in (".html", ".htm"):
        raise ValueError(f"-o/--output {str(options.output)!r} must end in .html")
    return options


def inspect(arguments: Sequence[str]) -> None:
    """Play episodes with a run's model, write the page, and print the numbers.

    :param arguments: of the command line
    :raises ValueError: if there is no such run, its files are damaged, or its algorithm does not plan
    :raises OSError: if the page cannot be written
    """
    options = parse(arguments)
    _, model_path, run = checked_model_path(
        *(options.exp_id, options.folder, options.algo, options.env),
        *(options.load_best, options.load_checkpoint, options.load_last_checkpoint),
    )
    output = options.output or Path(run, "inspection.html")
    check_folder(output.parent)
    print(f"Loading {model_path}")
    model = ALGOS[options.algo].load(model_path, device=options.device)
    env = environment(options, Path(run, options.env))
    try:
        report = inspect_model(model, env, options.n_episodes, options.max_steps, not options.stochastic, options.seed)
    finally:
        env.close()
    report.write(output)
    for name, number in report.numbers().items():
        if math.isfinite(number):
            print(f"{name:24} {number_text(number):>9}  {meaning(name)}")
    for line in report.left_out:
        print(f"Left out: {line}")
    print(f"Page: {output}")


def environment(options: argparse.Namespace, settings: Path) -> VecEnv:
    """The environment that a run learned from, with its normalisation of observations and of rewards.

    :param options: of the command line
    :param settings: folder of the run's settings
    """
    # As in training: values are in the units of normalised rewards where these were.
    hyperparams, stats_path = saved_hyperparams(str(settings), norm_reward=True)
    env_kwargs: dict[str, Any] = {**(read_run(settings)[1].get("env_kwargs") or {}), **(options.env_kwargs or {})}
    if not options.no_render and renders(options.env.gym_id):
        env_kwargs.setdefault("render_mode", "rgb_array")
    norm_reward = hyperparams.get("normalize_kwargs", {}).get("norm_reward", True)
    env = create_env_as_trained(
        options.env.gym_id,
        stats_path=stats_path,
        seed=options.seed,
        should_render=False,
        hyperparams=hyperparams,
        env_kwargs=env_kwargs,
    )
    normalize = unwrap_vec_normalize(env)
    if normalize is not None:
        normalize.norm_reward = norm_reward
    return env


def renders(env_id: str) -> bool:
    """Whether an environment says that it can draw frames."""
    entry_point = gym.spec(env_id).entry_point
    found = gym.envs.registration.load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return "rgb_array" in (getattr(found, "metadata", None) or {"render_modes": ["rgb_array"]}).get("render_modes", [])
