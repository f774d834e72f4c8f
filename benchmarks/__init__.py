"""Measurements of learning and of speed; run them as modules from the repository's root."""
