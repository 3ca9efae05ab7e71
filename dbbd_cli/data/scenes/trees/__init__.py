"""Region trees: what one is and how it is checked, built from coordinates, and read from a scene file."""
