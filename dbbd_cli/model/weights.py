"""Reading files of tensors from unknown sources: `torch.load(weights_only=True)`, with errors that name the file."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from dbbd_cli.core.compat import refused_global
from dbbd_cli.core.errors import CheckpointError, reason_of
from dbbd_cli.core.files import require_regular
from dbbd_cli.core.text import printable
from dbbd_cli.model.digest import digest_matches, has_digest, is_sparse

_MAX_DEPTH = 100
_MAX_VALUES = 3_000_000
"""Values in nested containers, shared ones counted each time. The history of a run has about 60 per epoch."""
_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(torch.dtype, torch.device, torch.layout, torch.UntypedStorage, torch.storage.TypedStorage),
)
_CONFIGURATION_CLASSES = {
    *("argparse.Namespace", "types.SimpleNamespace"),
    *(
        f"{module}.{kind}Path"
        for module in ("pathlib", "pathlib._local")
        for kind in ("Posix", "Windows", "PurePosix", "PureWindows")
    ),
}
"""Classes of Python that configurations consist of."""


class ContentError(CheckpointError):
    """A file was read, but its content is damaged, unsafe, or not tensors and plain values."""


class InertObject:
    """An object read without its class: its attributes and no behavior.

    Attributes:
        settings: the attributes by name.
    """

    __slots__ = ("settings",)
    settings: dict[str, Any]

    def __new__(cls, *_: object) -> InertObject:
        """Create an object without attributes; in `__new__`, because PyTorch does not call `__init__`."""
        self = super().__new__(cls)
        self.settings = {}
        return self

    def __setstate__(self, state: object) -> None:
        """Set the attributes: a dict, or None and a dict if the class has slots."""
        attributes = state[1] if isinstance(state, tuple) and len(state) == 2 and state[0] is None else state
        if not isinstance(attributes, dict):
            raise ValueError("has an object whose attributes are not a dict")
        self.settings = attributes


def load_tensors(path: Path, *, objects: bool = False, without_data: bool = False) -> object:
    """Load a file of tensors and plain values that `torch.save` wrote, or safetensors. None of its code can run.

    Args:
        path: the file. If it carries its digest, the digest must match.
        objects: whether to read other objects, such as a configuration, as `InertObject`. Never true for the files of a
            run. Classes of Python, PyTorch and NumPy stay refused, and so do all objects in files of the format before
            PyTorch 1.6.
        without_data: whether to skip the digest and the data of tensors: tensors are then on the meta device.

    Raises:
        ContentError: the content is damaged or unsafe; the message names what was refused.
        CheckpointError: the file is missing, unreadable, or larger than the free memory.
    """
    try:
        require_regular(path)
        if not without_data:
            _require_memory(path)
            if has_digest(path) and (is_sparse(path) or not digest_matches(path)):
                raise ContentError(f"{path} is damaged: its SHA-256 does not match")
        with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins(path) if objects else []):
            warnings.simplefilter("ignore")  # the error below reports what matters
            if path.suffix == ".safetensors":
                content: object = load_file(path)
            else:
                content = torch.load(path, map_location="meta" if without_data else "cpu", weights_only=True)
        _require_plain(content, "meta" if without_data else "cpu")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist", hint="check the path") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason_of(error)}") from error
    except CheckpointError:
        raise
    except Exception as error:  # torch raises many types, some advising to load without safety
        if name := refused_global(error):
            raise ContentError(
                f"{path} was not loaded: it refers to the code of {printable(name)}, and only tensors and plain values "
                "are read",
                hint="do not trust a file that must run code; save the state dict alone",
            ) from error
        known = isinstance(error, _UnexpectedValueError)
        raise ContentError(
            f"{path} is not a valid file of tensors: it {error if known else 'is damaged, unsafe, or of another kind'}",
            hint="use safetensors, or what torch.save wrote; TorchScript and tar archives are not read",
        ) from error
    return content


class _UnexpectedValueError(ValueError):
    """A value that files of tensors do not need; the message completes "it ..."."""


def _require_memory(path: Path) -> None:
    size, free = path.stat().st_size, psutil.virtual_memory().available
    if size > free:
        raise CheckpointError(f"{path} needs {size / 1e9:,.1f} GB of memory, and only {free / 1e9:,.1f} GB is free")


def _stand_ins(path: Path) -> list[Any]:
    """`InertObject` as the stand-in for each class that a file refers to, for `torch.serialization.safe_globals`."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged, or of the old format: loading it reports the cause
        return []
    outside = {*sys.stdlib_module_names, "__builtin__", "torch", "numpy"}
    return [
        (InertObject, name) for name in names if name in _CONFIGURATION_CLASSES or name.partition(".")[0] not in outside
    ]


def _require_plain(content: object, device: str) -> None:
    """Raise unless all values are plain, tensors ordinary, and containers small enough to walk through."""
    num_left, waiting = _MAX_VALUES, [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_quantized or value.device.type != device:
                raise _UnexpectedValueError("has a sparse or quantized tensor, or one without data")
            if math.prod(value.shape) * value.element_size() > value.untyped_storage().nbytes():
                raise _UnexpectedValueError("has a tensor that repeats its values; save a contiguous one")
        elif isinstance(value, (dict, list, tuple, set, InertObject)):
            inner = value.settings if isinstance(value, InertObject) else value
            items = list(inner.values() if isinstance(inner, dict) else inner)
            num_left -= len(items)
            if depth > _MAX_DEPTH or num_left < 0:
                raise _UnexpectedValueError("has containers that are nested too deeply, or too many values")
            waiting.extend((item, depth + 1) for item in items)
        elif not isinstance(value, _PLAIN):
            raise _UnexpectedValueError("has a class or function among its values")


def check_finite(state: object, path: Path) -> None:
    """Raise if a weight is NaN or infinite: results computed with it would be meaningless.

    Args:
        state: a state dict; anything else is accepted.
        path: the file that it comes from.

    Raises:
        CheckpointError: names the first such weight.
    """
    for name, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(
                f"{path}: {name} has non-finite values",
                hint="use another checkpoint; training had already diverged when this one was saved",
            )


def mismatches(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> list[str]:
    """The keys that a state dict lacks, those that it has in excess, and those whose shape differs."""
    return [
        *(f"missing: {key}" for key in expected if key not in state),
        *(f"unknown: {key}" for key in state if key not in expected),
        *(
            f"{key}: shape {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
            for key, tensor in expected.items()
            if key in state and state[key].shape != tensor.shape
        ),
    ]
