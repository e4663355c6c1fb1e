"""A strategy and a task for l2pd-bench."""
