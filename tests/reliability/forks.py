"""Running the program in copies of a process that has imported everything, in tenths of a second instead of seconds.

The copies are real processes, with real files, signals and exit codes. They can be held at a given place, so that a
tracer sees only what comes after it.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

SECONDS = 120.0
"""Time limit for a copy; a few seconds are usual."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or the negative signal number, and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Copy:
    """A running copy."""

    forks: Forks
    pid: int
    output: Path

    def wait_until_held(self) -> None:
        """Wait until the copy has stopped itself."""
        end = time.monotonic() + SECONDS
        while (status := psutil.Process(self.pid).status()) != psutil.STATUS_STOPPED:
            assert status != psutil.STATUS_ZOMBIE, "it has ended"
            assert time.monotonic() < end, "it does not stop"
            time.sleep(0.002)

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        return self.wait().code if psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE else None

    def wait(self) -> Ended:
        """Wait until the copy ends."""
        code = self.forks.ask({"do": "wait", "pid": self.pid})
        out, err = (Path(f"{self.output}.{name}").read_text(encoding="utf-8") for name in ("out", "err"))
        return Ended(code, out, err)


class Forks:
    """The process to copy; a context manager."""

    def __enter__(self) -> Forks:
        from program import environment

        self._folder = tempfile.TemporaryDirectory()
        self._count = 0
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            # No bytecode is written: a traced copy would make calls that the next one does not make.
            env=environment(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)
        self._folder.cleanup()

    def ask(self, request: Mapping[str, Any]) -> int:
        """Send a request to the process; return its answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def start(self, code: str, *arguments: str, folder: Path, before: str = "", held: bool = False, **env: str) -> Copy:
        """Start a copy that executes `before` and `code`.

        Args:
            code: Python code.
            arguments: its command line.
            folder: its working directory.
            before: Python code to run first.
            held: whether the copy stops itself between the two, until it receives SIGCONT.
            env: changes to its environment.
        """
        from program import environment

        self._count += 1
        output = Path(self._folder.name) / str(self._count)
        request = {"do": "start", "code": code, "before": before, "held": held, "arguments": arguments}
        pid = self.ask({**request, "folder": str(folder), "output": str(output), "env": environment(**env)})
        return Copy(self, pid, output)

    def dbbd(self, *arguments: str, folder: Path, **env: str) -> Ended:
        """Run `dbbd ARGUMENTS` and wait for its end."""
        return self.start(DBBD, *arguments, folder=folder, **env).wait()


DBBD = "from dbbd_cli.__main__ import main; main()"


def _serve() -> None:
    """Import everything, then answer each line with a request by a line with a number; never returns in a copy."""
    import dbbd_cli

    for module in pkgutil.walk_packages(dbbd_cli.__path__, "dbbd_cli."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    for name in ("torch.utils.tensorboard", "torch._dynamo"):  # imported later in a run
        import_module(name)
    gc.freeze()  # so that copies share these pages longer
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            answer = os.fork()
            if not answer:
                _become(request)
            if request["held"]:
                os.waitpid(answer, os.WUNTRACED)
        else:
            answer = _exit_code(request["pid"])
        print(answer, flush=True)  # noqa: T201


def _exit_code(pid: int) -> int:
    end = time.monotonic() + SECONDS
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _become(request: Mapping[str, Any]) -> None:
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for number, name in ((1, "out"), (2, "err")):
        opened = os.open(f"{request['output']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["dbbd", *request["arguments"]]
    names: dict[str, Any] = {}
    exec(request["before"], names)
    if request["held"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        exec(request["code"], names)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    # What Python does at exit, except for destroying all modules, which takes a second.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
