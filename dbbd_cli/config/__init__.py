"""The configuration: its schema, and the loader that reports all problems at once."""
