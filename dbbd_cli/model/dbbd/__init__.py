"""The DBBD network and its losses."""
