"""The task url_classification."""
