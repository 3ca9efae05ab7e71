"""Where data and model meet: one module per kind of training."""
