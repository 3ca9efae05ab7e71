"""The entry point: `dbbd` and `python -m dbbd_cli`."""

from __future__ import annotations


def main() -> None:
    """Runs the command line and leaves with its exit code."""
    from dbbd_cli.cli.app import app

    app(prog_name="dbbd")


if __name__ == "__main__":
    main()
