"""The training loop and what it is built on. Knows no task by name."""
