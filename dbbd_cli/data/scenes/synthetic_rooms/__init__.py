"""Synthetic rooms: furnished rooms as a laser scanner would see them."""
