"""Measurements of what must not be lost, and of what wrong input leads to."""
