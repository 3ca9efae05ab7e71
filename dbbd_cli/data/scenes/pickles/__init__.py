"""A reader of pickles that runs no code, for scenes."""
