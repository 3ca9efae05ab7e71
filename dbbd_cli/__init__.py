"""Train, resume, validate, evaluate, plot and smoke-test PyTorch models from the command line."""

__version__ = "0.1.0"
