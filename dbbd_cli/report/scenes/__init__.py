"""Figures of scenes."""
