"""The entry point: `dbbd` and `python -m dbbd_cli`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line and leaves with its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the program, as some schedulers do
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    try:
        from dbbd_cli.cli.app import app

        app(prog_name="dbbd")
    except KeyboardInterrupt:  # before or after the program proper
        sys.exit(130)


if __name__ == "__main__":
    main()
