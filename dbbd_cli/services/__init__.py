"""One function per command, usable from Python without the command line."""
