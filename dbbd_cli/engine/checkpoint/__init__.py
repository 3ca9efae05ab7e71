"""Checkpoints: writing, reading and the replay check."""
