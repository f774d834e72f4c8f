"""What Optuna may try: the search space of the algorithm."""

from typing import Any

import optuna

from sb3_ezv2.learning.reanalyze import SEARCH_VALUES

NETWORKS = {
    "small": {"latent_dim": 64, "hidden_dim": 64, "projection_dim": 128},
    "medium": {"latent_dim": 128, "hidden_dim": 128, "projection_dim": 256},
    "large": {"latent_dim": 256, "hidden_dim": 256, "projection_dim": 512},
}
"""Network sizes by name; medium is the default."""

POWERS_OF_TWO = ("n_simulations", "n_candidates", "batch_size")
COUNTED = {"td_phase_updates": "td_phase", "td_fresh_observations": "td_fresh"}
"""Numbers of a study that are arguments under another name."""


def sample_ezv2_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Draw one set of hyperparameters.

    ``updates_per_step`` is the number of updates for every step of all environments. The space contains the settings of
    every entry of the package's hyperparameter file.

    :param trial: to draw from
    :param n_actions: dimensions of a continuous action, 0 for discrete ones, which need no candidates
    :param n_envs: environments that are stepped together
    :param additional_args: of other algorithms
    :return: arguments of the algorithm
    """
    sampled: dict[str, Any] = {
        "n_simulations_pow": trial.suggest_int("n_simulations_pow", 3, 6),
        "unroll_steps": trial.suggest_int("unroll_steps", 2, 8),
        "td_steps": trial.suggest_int("td_steps", 1, 20),
        "td_phase_updates": trial.suggest_int("td_phase_updates", 50, 50_000, log=True),
        "search_value": trial.suggest_categorical("search_value", list(SEARCH_VALUES)),
        "td_fresh_observations": trial.suggest_int("td_fresh_observations", 50, 50_000, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.001, 0.05, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        "batch_size_pow": trial.suggest_int("batch_size_pow", 5, 8),
        "target_update_interval": trial.suggest_int("target_update_interval", 25, 400, log=True),
        "updates_per_step": trial.suggest_categorical("updates_per_step", [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]),
        "network": trial.suggest_categorical("network", list(NETWORKS)),
        "ent_coef": trial.suggest_float("ent_coef", 1e-4, 0.1, log=True),
    }
    if n_actions > 0:
        sampled["n_candidates_pow"] = trial.suggest_int("n_candidates_pow", 3, 5)
    hyperparams = convert_ezv2_params(sampled)
    for name in set(hyperparams) - set(sampled) - {"policy_kwargs"}:
        trial.set_user_attr(name, hyperparams[name])  # the report shows these values
    return hyperparams


def convert_ezv2_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the algorithm from the numbers that a study stores; those of release 0.1 have other names for some.

    :param sampled_params: ``trial.params``
    :return: arguments of the algorithm
    """
    hyperparams = dict(sampled_params)
    for name in POWERS_OF_TWO:
        if f"{name}_pow" in hyperparams:
            hyperparams[name] = 2 ** hyperparams.pop(f"{name}_pow")
    hyperparams["gamma"] = 1 - hyperparams.pop("one_minus_gamma")
    for name, argument in COUNTED.items():
        if name in hyperparams:
            hyperparams[argument] = hyperparams.pop(name)
    ratio = hyperparams.pop("updates_per_step" if "updates_per_step" in hyperparams else "replay_ratio")
    hyperparams["train_freq"] = max(1, round(1 / ratio))
    hyperparams["gradient_steps"] = max(1, round(ratio))
    hyperparams["policy_kwargs"] = dict(NETWORKS[hyperparams.pop("network")])
    return hyperparams
