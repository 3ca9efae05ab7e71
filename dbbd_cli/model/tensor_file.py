"""Checks a file of `torch.save` before PyTorch reads it: nothing that it says of itself is trusted.

The container first: a ZIP archive, or the older sequence of pickles with the storages behind it. Then the pickle, in a
machine that builds nothing: there is no code, a storage has the size that it says, a tensor lies within its storage.
What is left for PyTorch is of the kind that it writes itself.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

from dbbd_cli.core.text import printable
from dbbd_cli.data.scenes.pickles.machine import PickleMachine
from dbbd_cli.data.scenes.pickles.objects import InertObject, InertObjects
from dbbd_cli.data.scenes.pickles.parts import RefusedPickleError, StandIn, checked_keys
from dbbd_cli.data.scenes.pickles.search import names_of_globals
from dbbd_cli.model.tensor_archive import read_archive

MAX_PICKLE_BYTES = 1 << 25
"""Largest pickle that is read: names, numbers and the history, but no weights."""
MAX_DEPTH = 100
MAX_STEPS = 6_000_000
"""Opcodes of the pickle: about 170 for each epoch of the history."""
MAX_VALUES = 3_000_000
"""Values in nested containers; what stands in several places counts in each."""

_ZIP = b"PK\x03\x04"
_TAR, _TAR_PLACE = b"ustar", slice(257, 262)
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64,
}  # fmt: skip
_DTYPES = {str(value): value.itemsize for value in vars(torch).values() if isinstance(value, torch.dtype)}
_ITEM_BYTES = {
    **_DTYPES,
    **{f"torch.{name}Storage": dtype.itemsize for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": 1,
}
"""Bytes of an item of each data type and kind of storage."""


@dataclass(frozen=True)
class _Storage:
    item_bytes: int
    count: int


class _Tensor:
    """Stands for a tensor."""


@dataclass(frozen=True)
class Outline:
    """What a file of tensors holds, without the tensors.

    Attributes:
        content: the plain values, with a placeholder for each tensor.
        classes: the classes "module.name" whose objects are read as inert.
    """

    content: object
    classes: frozenset[str]


def check_tensor_file(path: Path, *, objects: bool = False) -> Outline:
    """Finds out whether a file holds tensors and plain values only, as large as it says.

    Args:
        path: the file.
        objects: whether plain objects are allowed too, such as a configuration that was saved with the weights. Their
            classes are never looked up: only their attributes are read.

    Raises:
        OSError: it cannot be read.
        RefusedPickleError: it wants code; the message names which.
        ValueError: it is damaged, or of another kind; the message says which.
    """
    inert = InertObjects() if objects else None
    with path.open("rb") as file:
        head = file.read(512)
        if head.startswith(_ZIP):
            pickle, sizes = read_archive(file, MAX_PICKLE_BYTES)
            content = _TensorPickle(pickle, sizes, inert).load()
        elif head[_TAR_PLACE] == _TAR:
            _refuse_tar(file)
        else:
            content = _check_sequence(file, inert)
        _check_extent(content)
        return Outline(content, frozenset(inert.classes if inert else ()))


def _refuse_tar(file: IO[bytes]) -> NoReturn:
    """The format before PyTorch 0.2, which PyTorch itself reads no more without running what it says."""
    file.seek(0)
    data = file.read(MAX_PICKLE_BYTES)
    place = 0
    while size := re.fullmatch(rb"([0-7]+)[\0 ]?", data[place + 124 : place + 136]):
        for name in names_of_globals(data, place + 512):
            if name not in _STAND_INS:
                raise RefusedPickleError(f"wants the code of {printable(name)}")
        place += 512 + -(-int(size[1], 8) // 512) * 512
    raise ValueError("is a tar archive, as PyTorch wrote before version 0.2; save it again with torch.save")


def _check_sequence(file: IO[bytes], objects: InertObjects | None) -> object:
    """The format before PyTorch 1.6: pickles of magic number, version, system, content and keys, then the storages."""
    size = file.seek(0, 2)
    file.seek(0)
    machine = _TensorPickle(file.read(MAX_PICKLE_BYTES), None, objects)
    if machine.load() != _MAGIC:
        raise ValueError("was not written by torch.save")
    _version, _system, content, keys = (machine.load() for _ in range(4))
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(machine.storages):
        raise ValueError("has storages that it does not list")
    position = machine.position
    for key in keys:
        storage = machine.storages[key]
        file.seek(position)
        promised = int.from_bytes(file.read(8), "little")
        position += 8 + storage.count * storage.item_bytes
        if promised != storage.count or position > size:
            raise ValueError("is truncated, or has a storage of another size than it says")
    return content


class _TensorPickle(PickleMachine):
    """Reads the pickle of a file of tensors, where storages and tensors are only described.

    Args:
        data: the bytes.
        sizes: bytes of each storage in the archive; None where they stand behind the pickle.
        objects: reads plain objects as inert; None refuses them.
    """

    def __init__(self, data: bytes, sizes: Mapping[str, int] | None, objects: InertObjects | None) -> None:
        copying = {name: StandIn(name, partial(self._copy, call)) for name, call in _COPIES.items()}
        super().__init__(data, _STAND_INS | copying, self._storage, MAX_STEPS, objects)
        self.storages: dict[str, _Storage] = {}
        self._sizes = sizes

    def _copy(self, call: Callable[..., Any], *arguments: object) -> object:
        """Calls what copies its argument, and counts its memory: a pickle can name one argument any number of times."""
        value = call(*arguments)
        self._steps_left -= len(value) // 16 if isinstance(value, bytes) else 8 * len(value)
        return value

    def _storage(self, identity: object) -> _Storage:
        parts = 6 if self._sizes is None else 5  # in the old format the last says what a view is part of
        if not isinstance(identity, tuple) or len(identity) != parts or identity[0] != "storage":
            raise RefusedPickleError("refers to objects outside the file")
        _, kind, key, location, count, *view = identity
        named = isinstance(key, str) and isinstance(location, str) and not any(view)
        if type(kind) is not StandIn or not kind.name.endswith("Storage") or not named or not _is_count(count):
            raise ValueError("has a damaged storage")
        storage = _Storage(_ITEM_BYTES[kind.name], count)
        if self._sizes is not None and self._sizes.get(key) != count * storage.item_bytes:
            raise ValueError(f"has a storage of another size than it says: {count * storage.item_bytes:,} bytes")
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("has a storage of two kinds")
        return storage


def _tensor(
    storage: object, offset: object, size: object, stride: object, _grad: bool = False, hooks: object = None, *more: Any
) -> _Tensor:
    sizes, strides = _counts(size), _counts(stride)
    if not isinstance(storage, _Storage) or not _is_count(offset) or hooks or any(more):
        raise TypeError
    assert isinstance(offset, int)
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if 0 not in sizes and last >= storage.count:
        raise ValueError("has a tensor that reaches beyond its storage")
    if math.prod(sizes) > storage.count:
        raise ValueError("has a tensor that repeats its values; save a contiguous one")
    return _Tensor()


def _typed_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, grad: bool, hooks: Any, dtype: StandIn, *more: Any
) -> _Tensor:
    """A tensor of a type that has no kind of storage of its own."""
    return _tensor(_Storage(1, storage.count // _ITEM_BYTES[dtype.name]), offset, size, stride, grad, hooks, *more)


def _parameter(tensor: object, _grad: bool, hooks: object) -> object:
    if not isinstance(tensor, _Tensor) or hooks:
        raise TypeError
    return tensor


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _counts(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > 64 or not all(map(_is_count, value)):
        raise TypeError
    return value


def _encoded(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise TypeError
    return text.encode("latin-1")


def _bytes(value: bytes | str = b"", encoding: str = "latin1") -> bytes:
    """Of a bytearray. A number would ask for so many bytes."""
    return _encoded(value, encoding) if isinstance(value, str) else bytes(memoryview(value))


def _device(kind: str, index: int = 0) -> str:
    if not isinstance(kind, str) or not _is_count(index):
        raise TypeError
    return kind


def _counter(counts: object = ()) -> Counter[Any]:
    if not isinstance(counts, dict):
        raise TypeError
    return Counter(counts)


def _not_callable(*_: object) -> object:
    raise TypeError


_CALLS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _counts,
    "torch.device": _device,
    "collections.OrderedDict": lambda: OrderedDict(),
    **{f"{module}.complex": complex for module in ("builtins", "__builtin__")},
    **dict.fromkeys(_ITEM_BYTES, _not_callable),
}
_COPIES: dict[str, Callable[..., Any]] = {
    "collections.Counter": _counter,
    "_codecs.encode": _encoded,
    **{f"{module}.bytearray": _bytes for module in ("builtins", "__builtin__")},
    **{f"{module}.set": lambda items: set(checked_keys(items)) for module in ("builtins", "__builtin__")},
}
_STAND_INS = {name: StandIn(name, call) for name, call in (_CALLS | _COPIES).items()}


def _check_extent(content: object) -> None:
    """Raises where containers hold each other, or are so deep or so many that looking through them would not end.

    A function or class that is named and not called is no plain value either.
    """
    left = MAX_VALUES
    waiting: list[tuple[object, int]] = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, StandIn) and value.name not in _DTYPES:
            raise RefusedPickleError(f"wants the code of {value.name}")
        if isinstance(value, dict):
            inner: Any = value.values()
        elif isinstance(value, (list, tuple)):
            inner = value
        elif isinstance(value, InertObject):
            inner = value.settings.values()
        else:
            continue
        left -= len(inner)
        if depth > MAX_DEPTH or left < 0:
            raise ValueError("has containers nested without end, or too many of them")
        waiting.extend((item, depth + 1) for item in inner)
