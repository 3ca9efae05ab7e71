"""What `evaluation.json` holds: the part that all tasks share, checked before anything is drawn from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.core.text import printable
from dbbd_cli.runs.reading import MAX_COUNT, MAX_NUMBER, parse_json, read_bytes

EVALUATION = "evaluation.json"
EVALUATION_FORMAT = 1
MAX_ROWS = 64
"""Most rows of a table with one row for each level or kind of features."""
_ROUNDING = 1e-6


def _within_limits(value: float) -> float:
    if not abs(value) <= MAX_NUMBER:  # False for NaN
        raise ValueError(f"not a number within ±{MAX_NUMBER:g}")
    return value


Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Number = Annotated[float, AfterValidator(_within_limits)]
Fraction = Annotated[float, Field(ge=-_ROUNDING, le=1 + _ROUNDING)]
"""From 0 to 1; means of rounded values may exceed that by a rounding error."""


class Part(BaseModel):
    """A JSON object in an evaluation. Unknown keys are ignored, types are not converted."""

    # The validator is built when the first evaluation is read: most plots have none.
    model_config = ConfigDict(strict=True, defer_build=True)


class Spread(Part):
    """A distribution of times, milliseconds."""

    median: Number | None = None
    p10: Number | None = None
    p90: Number | None = None


class Efficiency(Part):
    """Size and speed of a model."""

    parameters: Count | None = None
    size_mb: Number | None = None
    multiply_adds: Number | None = None
    batch_size: Count | None = None
    ms_per_sample: Spread | None = None
    ms_per_batch: Spread | None = None
    samples_per_second: Number | None = None
    points_per_second: Number | None = None
    peak_memory_mb: Number | None = None
    device: str | None = None
    precision: str | None = None


class Evaluation(Part):
    """The fields of every evaluation. Any may be absent or null; present ones must be valid."""

    format: Literal[1]
    task: str | None = None
    split: str | None = None
    data: str | None = None
    """The file or folder, if it is not a split of the run."""
    checkpoint: str | None = None
    epoch: Count | None = None
    synthetic: bool | None = None
    num_samples: Count | None = None
    loss: Number | None = None
    efficiency: Efficiency | None = None


SHARED_FIELDS = frozenset(Evaluation.model_fields)


def same_length(*lists: list[Any]) -> None:
    """Check that lists are equally long and not empty.

    Raises:
        ValueError: they are not.
    """
    if len({len(values) for values in lists}) != 1 or not lists[0]:
        raise ValueError("lists that belong together differ in length or are empty")


def evaluation_problem(values: Any, schema: type[Evaluation]) -> str:
    """The first problem of the content of `evaluation.json`, with its key; empty if there is none."""
    try:
        schema.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(printable(str(part))[:60] for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    return ""


def read_evaluation(folder: Path, schema: type[Evaluation]) -> dict[str, Any] | None:
    """Read and check the `evaluation.json` of a run folder; None if the run was not evaluated.

    Raises:
        CheckpointError: the file is damaged or of another format.
    """
    path = folder / EVALUATION
    if not os.path.exists(path):  # noqa: PTH110 - a Path raises if a link leads to a name that is too long
        return None
    content = read_bytes(path).decode("utf-8", errors="replace")
    try:
        values = parse_json(content)
        problem = evaluation_problem(values, schema)
    except ValueError as error:
        problem = f"not JSON ({error})"
    if problem:
        raise CheckpointError(f"{path} is damaged: {problem}", hint=f"write it again with `dbbd evaluate {folder}`")
    return dict(values)
