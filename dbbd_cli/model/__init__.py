"""Networks and losses as plain modules with keyword arguments."""
