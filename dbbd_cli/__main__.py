"""The entry point: `dbbd` and `python -m dbbd_cli`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from dbbd_cli.core.signals import ignore_signals, raise_on_signals, signal_of


def main() -> None:
    """Runs the command line and leaves with its exit code."""
    # How long PyTorch's threads wait for each other before they sleep, in turns of an empty loop of GNU OpenMP. Its
    # default, milliseconds, makes a run several times slower wherever something else wants the same processors.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Pydantic would read what every installed package says of itself, in search of plug-ins for it.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        raise_on_signals()
        from dbbd_cli.cli.terminal.streams import flush_at_exit, open_closed_streams

        open_closed_streams()
        try:
            from dbbd_cli.cli.app import app

            app(prog_name="dbbd")
        finally:
            flush_at_exit()
    except KeyboardInterrupt as error:  # before or after the program proper
        ignore_signals()  # a second one would end the program in the middle of its last words
        with suppress(OSError, AttributeError):  # AttributeError: the stream was closed
            sys.stderr.write("Stopped; nothing more was saved.\n")
        sys.exit(128 + signal_of(error))


if __name__ == "__main__":
    main()
