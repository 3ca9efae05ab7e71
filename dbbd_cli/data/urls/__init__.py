"""URLs: reading tables of them, cleaning, encoding, synthetic ones."""
