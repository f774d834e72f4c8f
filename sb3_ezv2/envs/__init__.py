"""Environments of the paper's benchmarks as plain Gymnasium environments."""
