"""A running node, a local federation, and a job in one process."""
