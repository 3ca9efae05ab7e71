"""Errors that mean a lack of memory are recognized, and limits are named with the command that raises them."""

from __future__ import annotations

import errno
import os

import pytest

from dbbd_cli.core import limits

resource = pytest.importorskip("resource", reason="limits of POSIX")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_errors_of_all_libraries_about_a_lack_of_memory_are_recognized(error: Exception) -> None:
    assert limits.is_out_of_memory(error)
    wrapped = RuntimeError("something failed")
    wrapped.__cause__ = error
    assert limits.is_out_of_memory(wrapped)


def test_other_errors_count_only_under_a_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    unclear = RuntimeError("could not create a primitive")
    for error in (OSError(errno.ENOSPC, "No space left on device"), ValueError("x"), SystemError("x"), unclear):
        assert not limits.is_out_of_memory(error)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 * 10**9, resource.RLIM_INFINITY))
    assert limits.is_out_of_memory(unclear)
    assert limits.is_out_of_memory(SystemError("error return without exception set"))


def test_a_memory_limit_is_named_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert limits.memory_advice() == "close other programs, or use a machine with more memory"
    limits.require_memory(1 << 62)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 * 10**9, resource.RLIM_INFINITY))
    assert limits.memory_advice() == "this shell allows 3,000 MB of address space: raise it with ulimit -v"
    limits.require_memory(1 << 12)
    with pytest.raises(MemoryError):
        limits.require_memory(1 << 62)


@pytest.mark.parametrize(("limit", "shown"), [(256, "ulimit -n, 256 now"), (resource.RLIM_INFINITY, "ulimit -n")])
def test_the_limit_on_open_files_is_shown_if_there_is_one(
    limit: int, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))
    assert limits.open_files_limit() == shown


def test_the_quota_of_a_container_limits_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota, expected in (
        ("max 100000", allowed),
        ("50000 100000", 1),
        ("1000000000 100000", allowed),
        ("x", allowed),
    ):
        monkeypatch.setattr(limits.Path, "read_text", lambda _, found=quota: found)
        assert limits.usable_processors() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_the_processors_of_this_process_may_be_fewer_than_those_of_the_machine() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert limits.usable_processors() == 1
    finally:
        os.sched_setaffinity(0, before)
