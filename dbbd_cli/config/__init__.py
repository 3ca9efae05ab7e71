"""The configuration: its schema, and the loader that reports every mistake at once."""
