"""Trajectories: what was observed, done and rewarded, kept in streams and drawn by priority.

In come the steps of every environment. Out go ``TrajectoryBatch`` records: sampled positions with the transitions after
them, their ages and importance weights. Nothing here knows a network.
"""
