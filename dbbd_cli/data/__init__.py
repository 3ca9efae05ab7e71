"""Readers, splits, caches and batches. Never imports a model."""
