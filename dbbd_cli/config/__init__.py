"""The configuration: its schema, and the loader that reports all mistakes at once."""
