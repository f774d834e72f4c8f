"""The world model: representation, dynamics, rewards, values and policies.

In come observations and actions as tensors. Out come ``NetworkOutput`` records, or logits for the losses. ``copies``
holds the trained model, its average and its target copy, and moves one to the other.
"""

from sb3_ezv2.networks.model import EfficientZeroModel, NetworkOutput

__all__ = ["EfficientZeroModel", "NetworkOutput"]
