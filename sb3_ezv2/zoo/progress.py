"""A progress bar that shows the return and the speed."""

import numpy as np
from stable_baselines3.common.callbacks import ProgressBarCallback
from stable_baselines3.common.utils import safe_mean
from tqdm.rich import tqdm


class ReturnProgressBar(ProgressBarCallback):
    """SB3's progress bar, with the mean return of the latest training episodes and the steps per second."""

    def _on_training_start(self) -> None:
        left = self.locals["total_timesteps"] - self.model.num_timesteps
        self.pbar = tqdm(total=left, unit="steps", desc=self.description())

    def _on_step(self) -> bool:
        if np.any(self.locals["dones"]):
            self.pbar.set_description(self.description(), refresh=False)
        return super()._on_step()

    def _on_training_end(self) -> None:
        self.pbar.set_description(self.description(), refresh=False)
        super()._on_training_end()

    def description(self) -> str:
        """What stands before the bar."""
        episodes = self.model.ep_info_buffer
        return f"return {safe_mean([episode['r'] for episode in episodes]):.1f}" if episodes else "return -"

    def clean(self) -> None:
        """Leave the terminal as it was, whatever ended learning."""
        if hasattr(self, "pbar"):
            self.pbar.close()
