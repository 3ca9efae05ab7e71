"""Output on the terminal: results, progress, help."""
