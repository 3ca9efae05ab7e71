"""The entry point: `dbbd` and `python -m dbbd_cli`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line and exit with its code."""
    # How long PyTorch's threads spin before they sleep, in iterations of GNU OpenMP. Its default, some milliseconds,
    # makes a run several times slower if anything else uses the same cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Pydantic would search the metadata of every installed package for plug-ins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        # Here, so that Ctrl-C during the import is handled, too.
        from dbbd_cli.core.signals import end_with_parent, raise_on_signals

        raise_on_signals()
        if "TORCHELASTIC_RUN_ID" in os.environ:
            end_with_parent()
        from dbbd_cli.cli.terminal.streams import flush_at_exit, open_closed_streams

        open_closed_streams()
        try:
            from dbbd_cli.cli.app import app

            app(prog_name="dbbd")
        finally:
            flush_at_exit()
    except KeyboardInterrupt as error:  # before or after the command
        from dbbd_cli.core.signals import ignore_signals, signal_of

        ignore_signals()  # a second one would interrupt the message
        with suppress(OSError, AttributeError):  # AttributeError: the stream was closed
            sys.stderr.write("Stopped.\n")
        sys.exit(128 + signal_of(error))


if __name__ == "__main__":
    main()
