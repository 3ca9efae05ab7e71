"""The network for URLs."""
