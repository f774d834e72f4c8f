"""Whether and how fast agents learn: tasks, runs and the tables made from them."""
