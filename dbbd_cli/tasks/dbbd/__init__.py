"""The task `dbbd`: Dual Branch Bi-Directional self-supervised pretraining on point clouds."""
