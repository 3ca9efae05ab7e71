"""The tasks: a protocol, a registry, and a folder for each."""
