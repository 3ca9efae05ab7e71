"""The `calibration.json` of a run folder: temperature, biases and decision threshold, fitted on validation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.core.text import printable
from dbbd_cli.runs.folder import CALIBRATION
from dbbd_cli.runs.reading import MAX_COUNT, parse_json, read_bytes

_MAX_BYTES = 1_000_000
_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Bias = Annotated[float, Field(ge=-1e3, le=1e3)]
_Text = Annotated[str, Field(max_length=10_000)]


class Achieved(BaseModel):
    """The false-positive rate that the threshold has on the validation split, and its 95% interval."""

    model_config = ConfigDict(strict=True)

    rate: _Share
    low: _Share
    high: _Share


class Calibration(BaseModel):
    """What was fitted on the validation split, and for which weights."""

    model_config = ConfigDict(strict=True)

    format: Literal[1] = 1
    checkpoint: _Text
    """The file name of the checkpoint."""
    checkpoint_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The SHA-256 that the checkpoint contains (`model/digest.py`): that of its content, whatever its name."""
    split: Literal["val"] = "val"
    num_samples: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)]
    """Probabilities are `softmax(logits / temperature + bias)`."""
    bias: Annotated[list[_Bias], Field(min_length=1, max_length=MAX_COUNT)] | None = None
    """One number per class; None in files of earlier versions, which had no bias."""
    positive_class: _Text | None = None
    """The positive one of two classes; None with more, which have no threshold."""
    false_positive_rate: _Share | None = None
    """The wanted rate."""
    threshold: Annotated[float, Field(ge=0.0, le=1.0 + 1e-9)] | None = None
    """A sample is positive if the probability of the positive class is at least this."""
    achieved: Achieved | None = None


def calibration_json(calibration: Calibration) -> bytes:
    """The content of `calibration.json`."""
    return (json.dumps(calibration.model_dump(mode="json"), indent=1) + "\n").encode("utf-8")


def read_calibration(folder: Path, checkpoint_sha256: str | None) -> Calibration | None:
    """Read and check the `calibration.json` of a run folder.

    Args:
        folder: the run folder.
        checkpoint_sha256: the digest of the checkpoint in use, see `model.digest.stored_digest`.

    Returns:
        None if there is none, or if it belongs to other weights.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / CALIBRATION
    if not os.path.lexists(path):
        return None
    try:
        values: Any = parse_json(read_bytes(path, _MAX_BYTES).decode("utf-8", errors="replace"))
        calibration = Calibration.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(printable(str(part))[:60] for part in first["loc"])
        raise _damaged(folder, path, f"{key}: {first['msg']}" if key else first["msg"]) from error
    except ValueError as error:
        raise _damaged(folder, path, f"not JSON ({error})") from error
    return calibration if calibration.checkpoint_sha256 == checkpoint_sha256 else None


def _damaged(folder: Path, path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {problem}", hint=f"write it again with `dbbd evaluate {folder}`")
