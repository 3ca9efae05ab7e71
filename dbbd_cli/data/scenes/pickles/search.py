"""The code that a pickle refers to, found by disassembling it."""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Iterator

from dbbd_cli.core.compat import python3_name

_MAX_BYTES = 1 << 20
_MAX_OPCODES = 100_000
_MAX_NAME_LENGTH = 200


def name_of(module: str, name: str) -> str:
    """The name "module.name" in Python 3 of the code that a pickle refers to, possibly by its name in Python 2."""
    return ".".join(python3_name(module, name))[:_MAX_NAME_LENGTH]


def names_of_globals(data: bytes | mmap.mmap, start: int = 0) -> Iterator[str]:
    """The names "module.name" in the pickles from `start`, as far as they can be read. Nothing is run."""
    part = data[start : start + _MAX_BYTES]
    texts: list[str] = []
    memo: dict[object, str] = {}
    try:
        for opcode, argument in _opcodes(part):
            if opcode in ("GLOBAL", "INST"):
                yield name_of(*str(argument).split(" ", 1))
            elif opcode == "STACK_GLOBAL":
                yield name_of(*texts[-2:])
            elif opcode == "MEMOIZE":
                memo[len(memo)] = texts[-1] if texts else ""
            elif "PUT" in opcode:
                memo[argument] = texts[-1] if texts else ""
            elif "GET" in opcode:
                texts.append(memo.get(argument, ""))
            elif isinstance(argument, str):
                texts.append(argument)
    except Exception:  # pickletools raises any exception on damaged data
        return


def _opcodes(data: bytes) -> Iterator[tuple[str, object]]:
    """Opcodes with their arguments, of consecutive pickles."""
    position = count = 0
    while position < len(data):
        start = position
        for opcode, argument, offset in pickletools.genops(data[start:]):
            yield opcode.name, argument
            position = start + (offset or 0) + 1
            count += 1
            if count > _MAX_OPCODES:
                return
