"""From a sampled batch to one optimiser step.

In comes a ``TrajectoryBatch``. ``reanalyze`` searches its states anew, ``stored_states`` knows what returns bootstrap from,
and together they are ``TrainingTargets``. ``losses`` unrolls the model and compares, ``updates`` takes the step. Out go
new weights, priorities and what is logged.
"""
