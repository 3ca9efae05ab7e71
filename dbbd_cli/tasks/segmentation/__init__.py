"""The task `segmentation`: a class for each point of a scene."""
