"""Reading files of tensors that strangers may have made."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.core.files import require_regular
from dbbd_cli.data.scenes.pickles.objects import InertObject
from dbbd_cli.data.scenes.pickles.parts import RefusedPickleError
from dbbd_cli.model.digest import digest_matches, is_sealed
from dbbd_cli.model.tensor_file import Outline, check_tensor_file

_DAMAGED = "{} is damaged: its SHA-256 is not the one at its end"


def load_tensors(path: Path, *, objects: bool = False) -> object:
    """Reads a file that `torch.save` wrote, if it holds tensors and plain values only. No code in it can run.

    A file that carries its digest is read only if it is whole.

    Args:
        path: the file.
        objects: whether plain objects, such as a configuration, are read as `InertObject`: their attributes, without
            their class. Otherwise files with objects are refused.

    Raises:
        CheckpointError: the file is missing, damaged, or holds anything else; the message names what was refused.
    """
    try:
        require_regular(path)
        classes = _check(path, objects).classes
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist", hint="check the path") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason_of(error)}") from error
    except RefusedPickleError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, and was not loaded: it {error}",
            hint="a file that needs code to be run cannot be trusted; save the state dict alone",
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not a readable file of tensors: it {error}") from error
    except MemoryError as error:
        raise CheckpointError(f"{path} does not fit into the memory that is free") from error
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(InertObject, name) for name in classes]):
            warnings.simplefilter("ignore")  # what is odd about a file is told by the error below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, with texts that advise to do without safety
        raise CheckpointError(
            f"{path} is not a readable file of tensors: damaged, cut off or something else"
        ) from error


def _check(path: Path, objects: bool) -> Outline:
    sealed = is_sealed(path)
    try:
        # The cheap look first: a file of holes may be of any size, and hashing it take hours.
        outline = check_tensor_file(path, objects=objects)
    except (RefusedPickleError, MemoryError):
        if sealed and not digest_matches(path):
            raise CheckpointError(_DAMAGED.format(path)) from None
        raise
    except ValueError as error:
        if sealed:
            reason = str(error)
            what = reason if reason.startswith("is damaged") else f"is damaged: it {reason}"
            raise CheckpointError(f"{path} {what}") from error
        raise
    size, free = path.stat().st_size, psutil.virtual_memory().available
    if size > free:
        raise CheckpointError(f"{path} has {size / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB of memory are free")
    if sealed and not digest_matches(path):
        raise CheckpointError(_DAMAGED.format(path))
    return outline


def check_finite(state: object, path: Path) -> None:
    """Raises where weights are NaN or infinite: nothing that is computed with them means anything.

    Args:
        state: a state dict; what is none is left to others.
        path: the file that it comes from.

    Raises:
        CheckpointError: names the first such weight.
    """
    for name, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(
                f"{path}: {name} holds values that are not finite",
                hint="use another checkpoint; training has failed here",
            )


def reason_of(error: BaseException) -> str:
    """The first line of an error, or its kind where it says nothing."""
    text = getattr(error, "strerror", None) or str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
