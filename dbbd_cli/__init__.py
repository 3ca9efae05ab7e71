"""Train, evaluate, plot and smoke-test PyTorch models, and inspect their data, from the command line."""

__version__ = "0.1.0"
