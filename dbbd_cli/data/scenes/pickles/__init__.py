"""Reading pickles of strangers without running anything."""
