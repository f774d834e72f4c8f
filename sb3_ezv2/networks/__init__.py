"""Neural networks of the world model."""

from sb3_ezv2.networks.model import EfficientZeroModel, NetworkOutput

__all__ = ["EfficientZeroModel", "NetworkOutput"]
