"""The training loop and what it stands on. Knows no task by name."""
