"""Figures of a classification report."""
