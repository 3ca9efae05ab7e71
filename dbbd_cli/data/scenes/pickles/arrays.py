"""Read pickles of plain containers, NumPy arrays and PyTorch tensors, without the loading code of NumPy or PyTorch.

Everything becomes plain values and NumPy arrays. The loaders of NumPy and PyTorch trust their input: a data type whose
internals a file may set, or a tensor that exceeds its storage, gives access to the memory of the process.
"""

from __future__ import annotations

import io
import math
import mmap
import re
from collections import OrderedDict
from typing import Any

import numpy as np

from dbbd_cli.data.scenes.pickles.machine import PickleMachine, RefusedPickleError, StandIn, Unbuilt, checked_keys

_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[US][1-9][0-9]{0,4}")
_STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1",
    "ByteStorage": "<u1", "BoolStorage": "<b1",
}  # fmt: skip
_MAX_STORAGES = 20_000
_STORAGE_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_VERSION = 1001


class PickleFile(mmap.mmap):
    """A pickle mapped into memory: of a sparse file, only what its opcodes refer to is read."""

    def readline(self) -> bytes:
        """The next line, or nothing if it is longer than a megabyte: a hole in a sparse file is an endless line."""
        start = self.tell()
        return self.read(max(self.find(b"\n", start, start + (1 << 20)) + 1 - start, 0))


def load_plain(data: bytes | mmap.mmap) -> Any:
    """Read a pickle (protocols 2 to 5) of plain containers, numbers, text, numpy arrays and torch tensors.

    Tensors become numpy arrays. Nothing in the file is ever run. The result may contain itself (a cycle), or one
    object in many places.

    Raises:
        RefusedPickleError: it holds anything else; the message names what.
        ValueError: it is damaged.
    """
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    return PickleMachine(stream, _Rebuilder(4 * len(data) + 65536).stand_ins()).load()


class _Rebuilder:
    """Build arrays from their description in a pickle.

    Args:
        budget: maximum total bytes: a file may ask for copies of its bytes again and again.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._storages_left = _MAX_STORAGES

    def stand_ins(self) -> dict[str, StandIn]:
        meanings: dict[str, Any] = {
            "_codecs.encode": self._encode,
            "collections.OrderedDict": lambda: OrderedDict(),
            "numpy.ndarray": None,
            "numpy.dtype": self._dtype,
            "torch.Size": _sizes,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch.storage._load_from_bytes": self._storage,
        }
        for core in ("numpy.core", "numpy._core"):
            meanings[f"{core}.multiarray._reconstruct"] = self._array
            meanings[f"{core}.multiarray.scalar"] = self._scalar
            meanings[f"{core}.numeric._frombuffer"] = self._array_of_buffer
        for builtins in ("builtins", "__builtin__"):
            meanings[f"{builtins}.set"] = lambda items: set(self._items(items))
            meanings[f"{builtins}.frozenset"] = lambda items: frozenset(self._items(items))
            meanings[f"{builtins}.bytes"] = lambda: b""
            meanings[f"{builtins}.bytearray"] = self._bytes
        return {name: StandIn(name, call or _not_callable) for name, call in meanings.items()}

    def _spend(self, count: int) -> None:
        self._budget -= count
        if self._budget < 0:
            raise ValueError("needs far more memory than the file has bytes")

    def _encode(self, text: str, encoding: str) -> bytes:
        """Protocol 2 writes bytes like this."""
        if encoding != "latin1" or not isinstance(text, str):
            raise ValueError("is not a valid pickle")
        self._spend(len(text))
        try:
            return text.encode("latin1")
        except UnicodeEncodeError as error:
            raise ValueError("is not a valid pickle") from error

    def _bytes(self, value: bytes = b"") -> bytes:
        if not isinstance(value, bytes):  # a number would allocate that many bytes
            raise TypeError
        return value

    def _items(self, items: list[Any]) -> list[Any]:
        self._spend(64 * len(items))
        return checked_keys(items)

    def _dtype(self, code: str, *_: object) -> Unbuilt:
        if isinstance(code, str) and code.startswith("O"):
            raise RefusedPickleError("has an array of Python objects")
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise RefusedPickleError("has an array of something other than numbers")

        def complete(state: object) -> np.dtype:
            order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
            if order not in ("<", ">", "|", "="):
                raise TypeError
            return np.dtype(code).newbyteorder(order)

        return Unbuilt(complete)

    def _array(self, *_: object) -> Unbuilt:
        def complete(state: Any) -> np.ndarray:
            if not isinstance(state, tuple) or len(state) != 5:
                raise TypeError
            _, shape, dtype, is_fortran, raw = state
            return self._array_of_buffer(raw, dtype, shape, "F" if is_fortran is True else "C")

        return Unbuilt(complete)

    def _array_of_buffer(self, raw: object, dtype: object, shape: object, order: str) -> np.ndarray:
        if not isinstance(dtype, np.dtype) or not isinstance(raw, (bytes, bytearray)) or order not in ("C", "F"):
            raise TypeError
        if math.prod(_sizes(shape)) * dtype.itemsize != len(raw):
            raise ValueError("has an array whose size does not match its bytes")
        self._spend(len(raw))
        return np.ndarray(_sizes(shape), dtype, buffer=bytearray(raw), order="F" if order == "F" else "C")

    def _scalar(self, dtype: object, raw: object) -> Any:
        return self._array_of_buffer(raw, dtype, (), "C")[()]

    def _storage(self, payload: object) -> np.ndarray:
        """Read the first format of `torch.save`, in which a pickle holds a storage."""
        if not isinstance(payload, bytes):
            raise TypeError
        self._storages_left -= 1  # one payload may occur in many places, and is read each time
        if self._storages_left < 0:
            raise ValueError(f"has more than {_MAX_STORAGES:,} tensors; save arrays")
        stream = io.BytesIO(payload)
        machine = PickleMachine(stream, _STORAGE_TYPES, _storage_type, max_steps=1000)
        magic, version, system, dtype, keys = (machine.load() for _ in range(5))
        if magic != _STORAGE_MAGIC or version != _STORAGE_VERSION or not isinstance(dtype, str) or len(keys) != 1:
            raise ValueError("has a damaged tensor")
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise ValueError("has a tensor of a big-endian machine, which is not supported")
        count = int.from_bytes(stream.read(8), "little")
        item = np.dtype("<u2" if dtype == "bfloat16" else dtype)
        raw = stream.read(count * item.itemsize)
        if len(raw) != count * item.itemsize:
            raise ValueError("has a damaged tensor")
        self._spend(len(raw))
        if dtype == "bfloat16":  # the upper half of a float32
            self._spend(len(raw))
            return (np.frombuffer(raw, item).astype("<u4") << 16).view("<f4")
        return np.ndarray((count,), item, buffer=bytearray(raw))

    def _tensor(self, storage: object, offset: object, size: object, stride: object, *_: object) -> np.ndarray:
        if not isinstance(storage, np.ndarray) or storage.ndim != 1 or type(offset) is not int or offset < 0:
            raise TypeError
        sizes, strides = _sizes(size), _sizes(stride)
        count = math.prod(sizes)
        last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        if count and last >= len(storage):
            raise ValueError("has a tensor that reaches beyond its storage")
        if count > len(storage):
            raise ValueError("has a tensor that repeats its values; save a contiguous one")
        if not count:
            return np.empty(sizes, storage.dtype)
        width = storage.itemsize
        return np.ndarray(sizes, storage.dtype, storage, offset * width, tuple(step * width for step in strides))


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > 8 or not all(type(n) is int and 0 <= n < 2**48 for n in value):
        raise TypeError
    return value


def _storage_type(identity: object) -> str:
    """The data type that the persistent id of a storage announces."""
    kind = identity[1] if isinstance(identity, tuple) and len(identity) > 1 and identity[0] == "storage" else None
    if type(kind) is not StandIn or kind.name not in _STORAGES:
        raise RefusedPickleError("has a tensor of something other than numbers")
    return _STORAGES[kind.name]


def _not_callable(*_: object) -> object:
    raise TypeError


_STORAGE_TYPES = {
    f"{module}.{name}": StandIn(name, _not_callable)
    for module in ("torch", "torch.storage")
    for name in (*_STORAGES, "UntypedStorage")
}
