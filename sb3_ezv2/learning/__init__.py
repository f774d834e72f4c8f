"""From a sampled batch to one optimiser step.

In comes a ``TrajectoryBatch``. ``reanalyze`` searches its states anew, with what ``stored_states`` knows of those that are
not searched, and gives ``TrainingTargets``, ``losses`` unrolls the model and compares, ``updates`` takes the step. Out go
new weights, priorities and what is logged.
"""
