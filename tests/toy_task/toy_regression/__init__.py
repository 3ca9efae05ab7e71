"""A task in a package of its own: predict one column of a table from the others."""
