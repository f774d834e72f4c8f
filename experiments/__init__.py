"""What the paper claims, each claim as one experiment: ``python -m experiments.NAME [--quick]``.

An experiment stores all its numbers, every seed apart, in ``experiments/results`` and its picture in
``docs/experiments``; the page of the same name there says what was found.
"""
