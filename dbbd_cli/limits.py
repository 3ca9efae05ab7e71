"""Limits that the system sets for a process."""

from __future__ import annotations

import errno

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
"""Numbers of the error that no more files can be opened: by this process, or on this machine."""


def open_files_limit() -> str:
    """The command that sets the limit on open files, and its value now: "ulimit -n, 256 now"."""
    try:
        import resource
    except ImportError:  # Windows
        return "ulimit -n"
    return f"ulimit -n, {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} now"
