"""A restricted unpickler for scenes: plain values and a fixed list of stand-ins, and no code from the file.

It replaces Python's unpickler because that one trusts the sizes in a file, even with a restricted `find_class`: a file
of 9 bytes made it allocate 1.5 GB in 3 s, and the largest such file asks for 64 GB. Here it takes no memory and less
than 1 ms. `pickletools` decodes the opcodes, and reads no more than the file holds. Only those of plain values are
executed; they are counted, and call nothing but the functions that were given by name.
"""

from __future__ import annotations

import io
import mmap
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any, cast

from dbbd_cli.core.text import printable

MAX_STEPS = 3_000_000
"""Opcodes in one pickle: a few for each number in a list. Each can take about 50 bytes of memory."""

_MAX_MARKS = 1000
"""Maximum depth of nested containers."""
_MAX_SEARCHED = 100_000
"""Opcodes of an old pickle that are searched for code; this takes a tenth of a second."""
_LARGEST_KEY = 1 << 63
_MAX_NUMBERS = 20_000
_INVALID = "is not a valid pickle"
_KEY_TYPES = (str, int, float, bytes, type(None))


class RefusedPickleError(ValueError):
    """A pickle contains more than plain values; the message names it."""


@dataclass(frozen=True, eq=False)
class StandIn:
    """The replacement of a global of the file: `call` instead of the code of that name."""

    name: str
    call: Callable[..., object]


@dataclass(eq=False)
class Unbuilt:
    """An object that a later opcode (BUILD) completes."""

    complete: Callable[[object], object]
    memo_keys: list[int] = field(default_factory=list)


def checked_keys(keys: list[Any], held: int = 0) -> list[Any]:
    """The keys of a dict or items of a set with `held` others; raises unless they are texts or numbers."""
    # Hashing deeply nested tuples overflows the stack of the process.
    if not all(isinstance(key, _KEY_TYPES) for key in keys):
        raise ValueError("has a key that is neither text nor a number")
    # Any number of larger integers share a hash, and each is compared with all before; of these, eight do.
    if not all(-_LARGEST_KEY <= key < _LARGEST_KEY for key in keys if type(key) is int):
        raise ValueError("has a key that is too large a number")
    # Numbers can be chosen to collide in the table. Hashes of texts are unpredictable.
    if held + len(keys) > _MAX_NUMBERS and any(isinstance(key, (int, float)) for key in keys):
        raise ValueError(f"has more than {_MAX_NUMBERS:,} keys, numbers among them")
    return keys


class PickleMachine:
    """Reads consecutive pickles.

    Args:
        stream: the pickles.
        stand_ins: the meaning of globals "module.name"; all others are refused.
        persistent: the meaning of a persistent id; None refuses them.
        max_steps: maximum number of opcodes over all `load` calls.
    """

    def __init__(
        self,
        stream: io.BytesIO | mmap.mmap,
        stand_ins: Mapping[str, StandIn],
        persistent: Callable[[object], object] | None = None,
        max_steps: int = MAX_STEPS,
    ) -> None:
        self.stream = stream
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
            for opcode, argument in _opcodes(self.stream):
                self._steps_left -= 1
                if self._steps_left < 0:
                    raise ValueError(f"has more than {self._max_steps:,} values")
                name = opcode.name
                if name in _VALUES:
                    self._stack.append(argument)
                elif name == "STOP":
                    return self._stack.pop()
                elif name in _ACTIONS:
                    _ACTIONS[name](self, argument)
                else:
                    self._refuse(opcode, argument)
        except (IndexError, KeyError) as error:
            raise ValueError(_INVALID) from error

    def _refuse(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        if opcode.name == "INST":
            raise _refused_code(argument.replace(" ", "."))
        if opcode.proto > 1 or opcode.name == "OBJ":
            raise RefusedPickleError(f"has an operation ({opcode.name}) that plain values do not need")
        # Do not advise to save a file again, and thus to load it, if it would run code.
        names: list[str] = []
        with suppress(ValueError):
            for other, argument in islice(_opcodes(self.stream), _MAX_SEARCHED):
                if other.name in ("GLOBAL", "INST"):
                    names.append(argument.replace(" ", "."))
        if refused := [name for name in names if name not in self._stand_ins]:
            raise _refused_code(refused[0])
        raise ValueError(
            "is in an old form of pickle (protocol 0 or 1, or written by Python 2); "
            "save it again with Python 3, with protocol 2 or later"
        )

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
            raise ValueError(_INVALID)
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(_INVALID)
        target.update(zip(checked_keys(items[::2], len(target)), items[1::2], strict=True))

    def _add_items(self) -> None:
        items = self._pop_mark()
        if type(self._stack[-1]) is not set:
            raise ValueError(_INVALID)
        self._stack[-1].update(checked_keys(items, len(self._stack[-1])))

    def _push_dict(self) -> None:
        items = self._pop_mark()
        self._push_container({})
        self._set_items(items)

    def _push_global(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError(_INVALID)
        stand_in = self._stand_ins.get(f"{module}.{name}")
        if stand_in is None:
            raise _refused_code(f"{module}.{name}")
        self._stack.append(stand_in)

    def _new_object(self) -> None:
        self._stack.pop()
        kind = self._stack.pop()
        if isinstance(kind, StandIn):
            raise _refused_code(kind.name)
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


def _opcodes(stream: io.BytesIO | mmap.mmap) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """The opcodes of the next pickle, with their arguments."""
    try:
        for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", stream)):
            yield opcode, argument
    except ValueError as error:
        raise ValueError(_INVALID) from error


def _refused_code(name: str) -> RefusedPickleError:
    return RefusedPickleError(f"refers to the code of {printable(name[:200])}")


_VALUES = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
"""Opcodes that push their argument."""
_ACTIONS: dict[str, Callable[[PickleMachine, Any], object]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,  # a hint for reading ahead
    "MARK": lambda m, _: m._push_mark(),
    "POP": lambda m, _: m._stack.pop(),
    "POP_MARK": lambda m, _: m._pop_mark(),
    "DUP": lambda m, _: m._stack.append(m._stack[-1]),
    "NONE": lambda m, _: m._stack.append(None),
    "NEWTRUE": lambda m, _: m._stack.append(True),
    "NEWFALSE": lambda m, _: m._stack.append(False),
    "EMPTY_LIST": lambda m, _: m._push_container([]),
    "EMPTY_DICT": lambda m, _: m._push_container({}),
    "EMPTY_TUPLE": lambda m, _: m._stack.append(()),
    "EMPTY_SET": lambda m, _: m._push_container(set(), cost=4),
    "LIST": lambda m, _: m._push_container(m._pop_mark()),
    "TUPLE": lambda m, _: m._push_container(tuple(m._pop_mark())),
    "DICT": lambda m, _: m._push_dict(),
    "TUPLE1": lambda m, _: m._push_tuple(1),
    "TUPLE2": lambda m, _: m._push_tuple(2),
    "TUPLE3": lambda m, _: m._push_tuple(3),
    "NEWOBJ": lambda m, _: m._new_object(),
    "ADDITEMS": lambda m, _: m._add_items(),
    "FROZENSET": lambda m, _: m._push_container(frozenset(checked_keys(m._pop_mark())), cost=4),
    "APPEND": lambda m, _: m._append([m._stack.pop()]),
    "APPENDS": lambda m, _: m._append(m._pop_mark()),
    "SETITEM": lambda m, _: m._set_items([m._stack.pop(-2), m._stack.pop()]),
    "SETITEMS": lambda m, _: m._set_items(m._pop_mark()),
    "BINPUT": lambda m, key: m._put(key),
    "LONG_BINPUT": lambda m, key: m._put(key),
    "MEMOIZE": lambda m, _: m._put(len(m._memo)),
    "BINGET": lambda m, key: m._stack.append(m._memo[key]),
    "LONG_BINGET": lambda m, key: m._stack.append(m._memo[key]),
    "GLOBAL": lambda m, names: m._push_global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m._push_global(m._stack.pop(-2), m._stack.pop()),
    "REDUCE": lambda m, _: m._reduce(),
    "BUILD": lambda m, _: m._build(),
    "BINPERSID": lambda m, _: m._push_persistent(),
}
"""Actions of opcodes; the others (instances with arguments, extension codes, text formats) are refused."""
