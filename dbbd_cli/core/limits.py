"""Limits of the system on this process: memory, file size and open files."""

from __future__ import annotations

import errno
import math
import mmap
import os

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
"""Error numbers: the limit on open files of the process or the machine is reached."""
_MESSAGES = (
    "out of memory",
    "can't allocate memory",  # PyTorch
    "cannot allocate memory",
    "std::bad_alloc",
    "failed to map segment",  # the loader of shared libraries
    "can't start new thread",
    "cannot create thread",
    "insufficient resources",
)
_AMBIGUOUS_MESSAGES = ("could not create a primitive", "could not execute a primitive")
"""Messages that oneDNN uses for any failure."""


def usable_processors() -> int:
    """Return the number of processors that this process may use: batch systems and containers can restrict it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_files_limit() -> str:
    """Return the command that sets the limit on open files, and its value: "ulimit -n, 256 now"."""
    limit = _limit("RLIMIT_NOFILE")
    return "ulimit -n" if math.isinf(limit) else f"ulimit -n, {limit:,.0f} now"


def largest_file() -> float:
    """Return the limit on the size of a file in bytes (`ulimit -f`); infinity without one."""
    return _limit("RLIMIT_FSIZE")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether memory, a thread or a process could not be allocated; every library words it differently."""
    words = (*_MESSAGES, *(_AMBIGUOUS_MESSAGES if is_memory_limited() else ()))
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(word in text for word in words):
            return True
        if isinstance(error, SystemError) and is_memory_limited():  # Python ran out of memory while raising an error
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_memory_limited() -> bool:
    """Return whether the address space of this process is limited (`ulimit -v`)."""
    return not math.isinf(_limit("RLIMIT_AS"))


def require_memory(size: int) -> None:
    """Raise MemoryError if a limit leaves less than `size` bytes of address space.

    Otherwise a threading library would abort the process before an error could be shown.
    """
    if is_memory_limited():
        try:
            mmap.mmap(-1, size).close()
        except OSError as error:
            raise MemoryError from error


def memory_advice() -> str:
    """Return what to do if memory runs out; names the limit, if any."""
    limit = _limit("RLIMIT_AS")
    if math.isinf(limit):
        return "close other programs, or use a machine with more memory"
    return f"this shell allows {limit / 1e6:,.0f} MB of address space: raise it with ulimit -v"


def _limit(name: str) -> float:
    if os.name != "posix":
        return math.inf
    import resource

    limit = resource.getrlimit(getattr(resource, name))[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit
