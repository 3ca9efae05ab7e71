"""Packages that read a format and are not installed by default, and errors of theirs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class MissingPackageError(ValueError):
    """The package that reads a format is not installed; the message says how to install it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'needs the package {package}, which is not installed: pip install "dbbd-cli[{extra}]"')


def optional_package(name: str, extra: str) -> Any:
    """Import a package of an extra of this project.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(name, extra) from error


@contextmanager
def damage(what: str) -> Iterator[None]:
    """Turn whatever a package raises for a damaged file into a ValueError that says what the file is not."""
    try:
        yield
    except (FileNotFoundError, PermissionError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except MemoryError as error:
        raise ValueError("does not fit into free memory") from error
    except BaseException as error:  # a panic of Rust is not an Exception
        reason = str(error).strip().splitlines()
        raise ValueError(f"is not a valid {what}, or is damaged{f' ({reason[0][:200]})' if reason else ''}") from error
