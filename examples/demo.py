"""Train EfficientZero V2 on CartPole in about two minutes on a CPU and draw its learning curve.

Run ``python examples/demo.py`` from anywhere; the results go to ``demo/`` in the current folder.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ezv2 import EfficientZeroV2

ENV_ID = "CartPole-v1"
TOTAL_TIMESTEPS = 1_500
EVAL_EVERY = 250
N_EVAL_EPISODES = 20
BEST_RETURN = 500
FOLDER = Path("demo")


def draw(evaluations: Path, picture: Path, return_before: float) -> None:
    """Draw the evaluations that were made during training.

    :param evaluations: the archive written by ``EvalCallback``
    :param picture: the file to write
    :param return_before: mean return of the untrained model, the first point of the curve
    """
    with np.load(evaluations) as archive:
        timesteps = np.concatenate([[0], archive["timesteps"]])
        returns = archive["results"]
    mean = np.concatenate([[return_before], returns.mean(axis=1)])
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.fill_between(timesteps[1:], returns.min(axis=1), returns.max(axis=1), alpha=0.2, label="worst to best episode")
    axes.plot(timesteps, mean, marker="o", label=f"mean of {returns.shape[1]} episodes")
    axes.axhline(BEST_RETURN, color="grey", linestyle="--", linewidth=1, label="best possible")
    axes.set(
        xlabel="environment steps", ylabel="return", title=f"EfficientZero V2 on {ENV_ID}", ylim=(0, 1.5 * BEST_RETURN)
    )
    axes.legend(loc="upper left")
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def main() -> None:
    """Evaluate, train, evaluate again, and save the model and the picture."""
    plt.switch_backend("Agg")  # a picture file needs no window
    FOLDER.mkdir(exist_ok=True)
    # One environment per evaluation episode: their searches run side by side, in one batch.
    eval_env = make_vec_env(ENV_ID, n_envs=N_EVAL_EPISODES, seed=1_000)
    # Four updates for every step, as in hyperparams/ezv2.yml: fewer steps are enough.
    model = EfficientZeroV2("MlpPolicy", ENV_ID, gradient_steps=4, td_fresh=100, verbose=0, seed=0)

    before, _ = evaluate_policy(model, eval_env, n_eval_episodes=N_EVAL_EPISODES, deterministic=True)
    print(f"mean return over {N_EVAL_EPISODES} episodes before training: {before:.1f}")

    evaluation = EvalCallback(
        eval_env,
        n_eval_episodes=N_EVAL_EPISODES,
        eval_freq=EVAL_EVERY,
        log_path=str(FOLDER),
        deterministic=True,
        verbose=0,
    )
    model.learn(TOTAL_TIMESTEPS, callback=evaluation, progress_bar=True)

    after, _ = evaluate_policy(model, eval_env, n_eval_episodes=N_EVAL_EPISODES, deterministic=True)
    print(f"mean return over {N_EVAL_EPISODES} episodes after {TOTAL_TIMESTEPS} steps: {after:.1f}")

    model_file, picture = FOLDER / "model.zip", FOLDER / "learning_curve.png"
    model.save(model_file)
    draw(FOLDER / "evaluations.npz", picture, float(before))
    print(f"model:          {model_file.resolve()}")
    print(f"learning curve: {picture.resolve()}")


if __name__ == "__main__":
    main()
