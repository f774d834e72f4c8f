"""What is left of a run after kills, damaged files and other accidents."""
