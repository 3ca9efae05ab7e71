"""Which code a pickle names, found by looking through it."""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Iterator

from dbbd_cli.core.compat import python3_name

_MOST_BYTES = 1 << 20
_MOST_OPCODES = 100_000
_LONGEST_NAME = 200


def name_of(module: str, name: str) -> str:
    """How Python 3 calls the code that a pickle names, which may be by a name of Python 2."""
    return ".".join(python3_name(module, name))[:_LONGEST_NAME]


def names_of_globals(data: bytes | mmap.mmap, start: int = 0) -> Iterator[str]:
    """The names "module.name" in the pickles that begin at a place, as far as these can be read. Nothing is run."""
    part = data[start : start + _MOST_BYTES]
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
    except Exception:  # pickletools raises whatever damaged bytes lead it to
        return


def _opcodes(data: bytes) -> Iterator[tuple[str, object]]:
    """Opcodes with their arguments, of one pickle after the other."""
    place = count = 0
    while place < len(data):
        start = place
        for opcode, argument, position in pickletools.genops(data[start:]):
            yield opcode.name, argument
            place = start + (position or 0) + 1
            count += 1
            if count > _MOST_OPCODES:
                return
