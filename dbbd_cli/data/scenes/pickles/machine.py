"""A restricted unpickler for scenes: plain values and a fixed list of stand-ins, and no code of the file.

It restarts Python's unpickler because that one trusts the sizes in a file, even with a restricted `find_class`: a file
of 9 bytes made it allocate 1.5 GB in 3 s, and the largest such file asks for 64 GB. Here it takes no memory and less
than 1 ms. This reader has only the opcodes of plain values, checks every length against the size of the file, counts
its steps, and calls nothing but the functions that it was given by name.
"""

from __future__ import annotations

import mmap
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from dbbd_cli.core.text import printable
from dbbd_cli.data.scenes.pickles.parts import RefusedPickleError, StandIn, Unbuilt, checked_keys
from dbbd_cli.data.scenes.pickles.search import name_of, names_of_globals

MAX_STEPS = 3_000_000
"""Opcodes in one pickle: a few for each number in a list. Each can take about 50 bytes of memory."""

_MAX_MARKS = 1000
"""Maximum depth of nested containers."""
_UINT8, _UINT16, _UINT32, _UINT64 = (struct.Struct(f"<{kind}") for kind in "BHIQ")
_INT32, _FLOAT64 = struct.Struct("<i"), struct.Struct(">d")


class PickleMachine:
    """Reads consecutive pickles in `data`.

    Args:
        data: the bytes, possibly a memory-mapped file.
        stand_ins: the meaning of globals "module.name"; all others are refused.
        persistent: the meaning of a persistent id; None refuses them.
        max_steps: maximum number of opcodes over all `load` calls.
    """

    def __init__(
        self,
        data: bytes | mmap.mmap,
        stand_ins: Mapping[str, StandIn],
        persistent: Callable[[object], object] | None = None,
        max_steps: int = MAX_STEPS,
    ) -> None:
        self.data = data
        self.position = 0
        self._stand_ins = stand_ins
        self._persistent = persistent
        self._max_steps = self._steps_left = max_steps
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The next value.

        Raises:
            RefusedPickleError: the file contains anything but plain values and stand-ins.
            ValueError: it is damaged or too long.
        """
        self._stack, self._marks, self._memo = [], [], {}
        try:
            while True:
                code = self._byte()
                self._steps_left -= 1
                if self._steps_left < 0:
                    raise ValueError(f"has more than {self._max_steps:,} values")
                if code == 0x2E:  # STOP
                    return self._stack.pop()
                action = _ACTIONS.get(code)
                if action is None:
                    self._refuse(code)
                else:
                    action(self)
        except struct.error as error:  # the data ends within a number
            raise ValueError("is truncated") from error
        except (IndexError, KeyError, UnicodeDecodeError) as error:
            raise ValueError("is not a valid pickle") from error

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self.position + count
        if end > len(self.data):
            raise ValueError("is truncated")
        part = self.data[self.position : end]
        self.position = end
        return part

    def _byte(self) -> int:
        start = self.position
        if start >= len(self.data):
            raise ValueError("is truncated")
        self.position = start + 1
        return self.data[start]

    def _number(self, layout: struct.Struct) -> Any:
        start = self.position
        self.position = start + layout.size
        return layout.unpack_from(self.data, start)[0]

    def _line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + 1000)
        if end < 0:
            raise ValueError("is not a valid pickle")
        line = self.take(end - self.position)
        self.position += 1
        return line.decode("latin1")

    def _refuse(self, code: int) -> None:
        names = names_of_globals(self.data, self.position - 1)
        wanted = next((name for name in names if name not in self._stand_ins), None)
        if wanted is not None:
            raise RefusedPickleError(f"refers to the code of {printable(wanted)}")
        if code in b"SVILFgpPTU":
            raise ValueError(
                "is in an old form of pickle (protocol 0 or 1, or written by Python 2); "
                "save it again with Python 3, with protocol 2 or later"
            )
        if chr(code) not in {known.code for known in pickletools.opcodes}:
            raise ValueError("is not a valid pickle")
        raise RefusedPickleError(f"has an operation (0x{code:02x}) that plain values do not need")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _push_container(self, value: Any, cost: int = 2) -> None:
        self._steps_left -= cost  # containers take more time and memory than numbers
        self._stack.append(value)

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _push_mark(self) -> None:
        if len(self._marks) >= _MAX_MARKS:
            raise ValueError("is nested too deeply")
        self._marks.append(self._stack)
        self._stack = []

    def _push_text(self, layout: struct.Struct) -> None:
        self._stack.append(str(self.take(self._number(layout)), "utf-8", "surrogatepass"))

    def _push_bytes(self, layout: struct.Struct) -> None:
        self._stack.append(self.take(self._number(layout)))

    def _push_long(self, layout: struct.Struct) -> None:
        self._stack.append(int.from_bytes(self.take(self._number(layout)), "little", signed=True))

    def _push_tuple(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) != count:
            raise IndexError
        self._stack[-count:] = [items]

    def _put(self, key: int) -> None:
        value = self._stack[-1]
        if type(value) is Unbuilt:
            value.memo_keys.append(key)
        self._memo[key] = value

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("is not a valid pickle")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("is not a valid pickle")
        target.update(zip(checked_keys(items[::2], len(target)), items[1::2], strict=True))

    def _add_items(self) -> None:
        items = self._pop_mark()
        if type(self._stack[-1]) is not set:
            raise ValueError("is not a valid pickle")
        self._stack[-1].update(checked_keys(items, len(self._stack[-1])))

    def _push_dict(self) -> None:
        items = self._pop_mark()
        self._push_container({})
        self._set_items(items)

    def _push_global(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("is not a valid pickle")
        stand_in = self._stand_ins.get(f"{module}.{name}")
        if stand_in is None:
            raise RefusedPickleError(f"refers to the code of {printable(name_of(module, name))}")
        self._stack.append(stand_in)

    def _new_object(self) -> None:
        self._stack.pop()
        kind = self._stack.pop()
        if isinstance(kind, StandIn):
            raise RefusedPickleError(f"refers to the code of {printable(kind.name)}")
        raise RefusedPickleError("creates an object that is not a plain value")

    def _reduce(self) -> None:
        arguments = self._stack.pop()
        function = self._stack.pop()
        if type(function) is not StandIn or type(arguments) is not tuple:
            raise RefusedPickleError("calls something that is not a function")
        self._steps_left -= 9
        try:
            self._stack.append(function.call(*arguments))
        except (TypeError, OverflowError, MemoryError, AttributeError) as error:
            raise ValueError(f"has invalid arguments for {function.name}") from error

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack.pop()
        if type(target) is OrderedDict and isinstance(state, dict):
            self._stack.append(target)  # the metadata of a state dict is not needed
            return
        if type(target) is not Unbuilt:
            raise RefusedPickleError("sets the state of an object")
        try:
            built = target.complete(state)
        except (TypeError, OverflowError, MemoryError) as error:
            raise ValueError("has a damaged array") from error
        self._stack.append(built)
        keys, target.memo_keys = target.memo_keys, []  # not again for a copy that is built once more
        for key in keys:
            self._memo[key] = built

    def _push_persistent(self) -> None:
        if self._persistent is None:
            raise RefusedPickleError("refers to objects outside the file")
        self._stack.append(self._persistent(self._stack.pop()))


_ACTIONS: dict[int, Callable[[PickleMachine], object]] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME: a hint for reading ahead
    ord("("): PickleMachine._push_mark,
    ord("0"): lambda m: m._stack.pop(),
    ord("1"): PickleMachine._pop_mark,
    ord("2"): lambda m: m._push(m._stack[-1]),
    ord("N"): lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    ord("K"): lambda m: m._push(m._byte()),
    ord("M"): lambda m: m._push(m._number(_UINT16)),
    ord("J"): lambda m: m._push(m._number(_INT32)),
    ord("G"): lambda m: m._push(m._number(_FLOAT64)),
    0x8A: lambda m: m._push_long(_UINT8),
    0x8B: lambda m: m._push_long(_UINT32),
    0x8C: lambda m: m._push_text(_UINT8),
    ord("X"): lambda m: m._push_text(_UINT32),
    0x8D: lambda m: m._push_text(_UINT64),
    ord("C"): lambda m: m._push_bytes(_UINT8),
    ord("B"): lambda m: m._push_bytes(_UINT32),
    0x8E: lambda m: m._push_bytes(_UINT64),
    0x96: lambda m: m._push_bytes(_UINT64),  # BYTEARRAY8, which is never modified here
    ord("]"): lambda m: m._push_container([]),
    ord("}"): lambda m: m._push_container({}),
    ord(")"): lambda m: m._push(()),
    0x8F: lambda m: m._push_container(set(), cost=4),
    ord("l"): lambda m: m._push_container(m._pop_mark()),
    ord("t"): lambda m: m._push_container(tuple(m._pop_mark())),
    ord("d"): PickleMachine._push_dict,
    0x85: lambda m: m._push_tuple(1),
    0x86: lambda m: m._push_tuple(2),
    0x87: lambda m: m._push_tuple(3),
    0x81: PickleMachine._new_object,
    0x90: PickleMachine._add_items,
    0x91: lambda m: m._push_container(frozenset(checked_keys(m._pop_mark())), cost=4),
    ord("a"): lambda m: m._append([m._stack.pop()]),
    ord("e"): lambda m: m._append(m._pop_mark()),
    ord("s"): lambda m: m._set_items([m._stack.pop(-2), m._stack.pop()]),
    ord("u"): lambda m: m._set_items(m._pop_mark()),
    ord("q"): lambda m: m._put(m._byte()),
    ord("r"): lambda m: m._put(m._number(_UINT32)),
    0x94: lambda m: m._put(len(m._memo)),
    ord("h"): lambda m: m._push(m._memo[m._byte()]),
    ord("j"): lambda m: m._push(m._memo[m._number(_UINT32)]),
    ord("c"): lambda m: m._push_global(m._line(), m._line()),
    0x93: lambda m: m._push_global(m._stack.pop(-2), m._stack.pop()),
    ord("R"): PickleMachine._reduce,
    ord("b"): PickleMachine._build,
    ord("Q"): PickleMachine._push_persistent,
}
"""Actions of opcodes; the others (instances with arguments, extension codes, text formats) are refused."""
