"""Reads objects in pickles as inert: their attributes are kept, and their classes are never looked up.

Programs save a configuration with the weights, as an object of one of their classes. Only the plain form of such an
object is read: it is created without arguments and then gets its attributes. Anything that would run code of a class or
function is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dbbd_cli.data.scenes.pickles.parts import RefusedPickleError, StandIn
from dbbd_cli.data.scenes.pickles.search import name_of

MAX_ATTRIBUTES = 1000
"""Attributes of an object: any number of objects can name the same ones."""
MAX_OBJECTS = 1000
"""Objects of a file and references to their classes: PyTorch searches all classes for each object."""


class InertObject:
    """An object whose class is not loaded: its attributes, without any behavior.

    Attributes:
        settings: the attributes by name.
    """

    __slots__ = ("complete", "settings")

    settings: dict[str, Any]
    complete: bool

    def __new__(cls, *_: object) -> InertObject:
        """Creates an object without attributes; in `__new__`, because PyTorch does not call `__init__`."""
        self = super().__new__(cls)
        self.settings, self.complete = {}, False
        return self

    def __setstate__(self, state: object) -> None:
        """Sets the attributes: a dict, or None and a dict if the class has slots. They are not copied.

        Raises:
            ValueError: it is something else, or called twice.
        """
        attributes = state[1] if isinstance(state, tuple) and len(state) == 2 and state[0] is None else state
        if self.complete or type(attributes) is not dict or len(attributes) > MAX_ATTRIBUTES:
            raise ValueError("has an object whose attributes are not one dict of usual size")
        if not all(type(name) is str for name in attributes):
            raise ValueError("has an object whose attributes have no names")
        self.settings, self.complete = attributes, True


@dataclass(frozen=True, eq=False)
class ClassStandIn(StandIn):
    """Stand-in for a class whose objects are read as inert: `call` creates one, only where the file creates one."""


class InertObjects:
    """Decides which classes of one file are read as inert, and counts them.

    Attributes:
        classes: their names "module.name" as the file writes them.
    """

    def __init__(self) -> None:
        self.classes: set[str] = set()
        self._count = 0

    def stand_in(self, module: str, name: str) -> StandIn | None:
        """The stand-in for a class; None if its objects are not read."""
        full_name = name_of(module, name)
        call = _CALLED.get(full_name)
        if call is None and full_name != "argparse.Namespace" and not _is_from_elsewhere(full_name):
            return None
        self.classes.add(f"{module}.{name}")
        self._count_one()
        if call is None:
            return ClassStandIn(full_name, partial(self._make, InertObject))
        return StandIn(full_name, partial(self._make, call))

    def _make(self, call: Callable[..., InertObject], *arguments: object) -> InertObject:
        self._count_one()
        return call(*arguments)

    def _count_one(self) -> None:
        self._count += 1
        if self._count > MAX_OBJECTS:
            raise ValueError(f"has more than {MAX_OBJECTS:,} objects besides tensors and plain values")


def refuse_items(target: object) -> None:
    """Raises if items are added to an object: only its class would know what to do with them."""
    if type(target) is InertObject:
        raise RefusedPickleError("puts items into an object, which only the code of its class could do")


def _is_from_elsewhere(name: str) -> bool:
    """Whether a class is not part of Python, PyTorch or NumPy, which have no configuration classes."""
    root = name.partition(".")[0]
    return root not in sys.stdlib_module_names and root not in ("torch", "numpy")


def _namespace() -> InertObject:
    return InertObject()


def _path(*parts: object) -> InertObject:
    if not all(isinstance(part, str) for part in parts):
        raise TypeError
    return InertObject()


_CALLED: dict[str, Callable[..., InertObject]] = {
    "types.SimpleNamespace": _namespace,
    **{
        f"{module}.{kind}Path": _path
        for module in ("pathlib", "pathlib._local")
        for kind in ("Posix", "Windows", "PurePosix", "PureWindows")
    },
}
"""Objects that a pickle creates by a call, and that a configuration may well contain."""
