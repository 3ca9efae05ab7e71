"""Reading files of tensors that strangers may have made."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from dbbd_cli.errors import CheckpointError


def load_tensors(path: Path) -> object:
    """Reads a file that `torch.save` wrote, if it holds tensors and plain values only. No code in it can run.

    Raises:
        CheckpointError: the file is missing, damaged, or holds anything else; the message names what was refused.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # foreign pickle protocols are answered by the errors below
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist", hint="check the path") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, and was not loaded: {_forbidden(error)}",
            hint="a file that needs code to be run cannot be trusted; save the state dict alone",
        ) from error
    except Exception as error:  # torch.load raises a wide choice of errors on damaged files
        raise CheckpointError(
            f"{path} is not a readable file of tensors: damaged, cut off or something else"
        ) from error


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


def _forbidden(error: BaseException) -> str:
    # PyTorch's own text goes on to advise how to allow it; that is not for a user to do.
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"it wants the code of {found[1]}" if found else "it is no file of tensors"
