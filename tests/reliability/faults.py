"""Making system calls of a process fail, or killing it at one of them, with strace."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from forks import Copy, Ended

CALLS = (
    *("write", "pwrite64", "writev", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat"),
    *("unlink", "unlinkat", "openat", "mkdir", "mkdirat", "ftruncate", "fallocate", "copy_file_range", "sendfile"),
)
"""The system calls that change files, and `openat`."""
_AHEAD = 200
AHEAD = f"""
import os
for _ in range({_AHEAD}):
    for call in (
        *(lambda: os.open("", 0), lambda: os.write(9999, b""), lambda: os.fsync(9999), lambda: os.ftruncate(9999, 0)),
        *(lambda: os.rename("", ""), lambda: os.link("", ""), lambda: os.unlink(""), lambda: os.mkdir("")),
    ):
        try:
            call()
        except OSError:
            pass
"""
"""Code after which the main thread has made more calls of each name than any other thread will.

strace counts calls per thread and injects a fault into the call with the given number in each thread. With this head
start, only a call of the main thread has that number.
"""
_LINE = re.compile(r"^(?:(\d+) +)?(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))$")
_OPENED = re.compile(r"^\d+<([^>]*)>")
_NAMED = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Call:
    """A system call.

    Attributes:
        name: such as `write`.
        number: position among the calls of this name in its thread, from 1.
        path: the file concerned; of two, the new one.
        changes: whether it changes the file or its folder.
        main: whether the main thread made it.
        injected: whether it was made to fail.
        ended: whether the process received its result.
    """

    name: str
    number: int
    path: Path
    changes: bool
    main: bool
    injected: bool
    ended: bool


@cache
def why_not() -> str:
    """Return why processes cannot be traced here; empty if they can."""
    if not hasattr(os, "fork") or not shutil.which("strace"):
        return "needs strace"
    tried = subprocess.run(["strace", "-f", "-e", "trace=none", "true"], capture_output=True)
    return "" if tried.returncode == 0 else "tracing is not allowed here"


def trace(copy: Copy, folder: Path, *options: str, thread: int = 0) -> tuple[Ended, list[Call]]:
    """Continue a held copy under strace.

    Args:
        copy: a copy that was started with `held=True`, or has stopped itself.
        folder: its working directory.
        options: options of strace, such as those of `injection`.
        thread: ID of the only thread to trace; 0 for all threads.

    Returns:
        How it ended, and its calls in order.
    """
    output = Path(f"{copy.output}.strace")
    wanted = ",".join(f"?{name}" for name in CALLS)
    command = ["strace", *([] if thread else ["-f"]), "-y", "-s", "0", "-e", "signal=none", "-e", f"trace={wanted}"]
    tracer = subprocess.Popen(
        [*command, *options, "-o", str(output), "-p", str(thread or copy.pid)], stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    first = tracer.stderr.readline()
    assert "attached" in first, first + tracer.stderr.read()
    os.kill(copy.pid, signal.SIGCONT)
    ended = copy.wait()
    tracer.communicate(timeout=60)
    return ended, _calls(output.read_text(encoding="utf-8", errors="replace"), copy.pid, folder)


def injection(call: Call, what: str) -> Sequence[str]:
    """Return the strace option that makes `what` happen at a call, such as `signal=KILL` or `error=ENOSPC`."""
    return "-e", f"inject={call.name}:{what}:when={call.number}"


def of_main(calls: list[Call]) -> list[Call]:
    """Return those calls of a main thread that began with `AHEAD` into which a fault can be injected, and no other."""
    most: Counter[str] = Counter()
    for call in calls:
        most[call.name] = max(most[call.name], 0 if call.main else call.number)
    assert max(most.values(), default=0) < _AHEAD, most
    return [call for call in calls if call.main and call.number > most[call.name]]


def _calls(text: str, main: int, folder: Path) -> list[Call]:
    counts: Counter[tuple[str, str]] = Counter()
    unfinished: dict[str, int] = {}
    found: list[Call] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        pid, name, arguments, _, rest = match.groups()
        if name is None:
            index = unfinished.pop(pid)
            result = {"injected": "(INJECTED)" in rest, "ended": not rest.endswith("= ?")}
            found[index] = Call(**{**vars(found[index]), **result})
            continue
        if "<unfinished" in arguments:
            unfinished[pid] = len(found)
        counts[pid, name] += 1
        opened, named = _OPENED.match(arguments), _NAMED.findall(arguments)
        path = opened[1] if opened else named[-1] if named else ""
        changes = name != "openat" or bool(re.search(r"O_(WRONLY|RDWR|CREAT)", arguments))
        number, is_main = counts[pid, name], pid is not None and int(pid) == main
        ended = "<unfinished" not in arguments and not arguments.endswith("= ?")
        found.append(Call(name, number, folder / path, changes, is_main, "(INJECTED)" in arguments, ended))
    return found
