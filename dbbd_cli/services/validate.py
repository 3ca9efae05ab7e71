"""Compute loss and metrics of a checkpoint on the validation split, as training does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from dbbd_cli.config.load import Override
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.engine.checkpoint.files import BEST
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.inference import place, run_split
from dbbd_cli.engine.runtime import Runtime, RuntimeRecord
from dbbd_cli.services.results import ValidateResult
from dbbd_cli.services.session import OpenedRun, build_workload, load_module, open_run

_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 1.6e-2}
"""Largest relative difference from the logged loss, by precision: four roundings in half precision."""
_TOLERANCE_OF_OTHER_DEVICES = 1e-3
_SMALLEST_LOSS = 0.1


def validate(target: Path, *, overrides: Sequence[Override] = (), progress: Progress | None = None) -> ValidateResult:
    """Compute loss and metrics of a checkpoint on the validation split of its run.

    A loss that differs from the logged one causes a warning.

    Args:
        target: a run folder (its best model is used), or a checkpoint file inside one.
        overrides: settings that replace those of the run, such as the path of the data.
        progress: shows a bar; nothing is shown by default.

    Raises:
        DbbdError: see the subclasses in `core.errors`.
    """
    progress = progress or Silent()
    run = open_run(target, prefer=BEST, overrides=overrides, progress=progress)
    workload, runtime = build_workload(
        run.config, run.manifest, splits=("val",), pretrained=False, progress=progress, recorded=run.kept_runtime
    )
    before = _trained_with(run)
    load_module(workload, run)
    place(workload.module, runtime)
    loader = workload.loaders["val"]
    with progress.phase("Validate", len(loader), sample_unit=workload.sample_unit) as bar, supervised(workload):
        sums = run_split(workload, loader, runtime, bar)
        sums.flush()
    history = run.state.history
    metrics = workload.summarize(sums.values, sums.num_samples)
    logged = dict(history[-1]["val"]) if history and run.state.batch == 0 else None
    if logged is not None:
        _compare(run, metrics, logged, before, runtime, overrides, progress)
    return ValidateResult(
        run=run.folder,
        checkpoint=run.path,
        epoch=len(history),
        num_samples=sums.num_samples,
        synthetic=run.config.is_synthetic,
        metrics=metrics,
        logged=logged,
        device=runtime.description,
        precision=runtime.precision,
    )


def _trained_with(run: OpenedRun) -> tuple[str, str]:
    """Device and precision that a run was trained with, such as "cpu" and "fp32"; empty if unknown."""
    record = run.recorded or RuntimeRecord.from_replay_check(run.checkpoint["proof"])
    return (record.device, record.precision) if record else ("", "")


def _compare(
    run: OpenedRun,
    metrics: Mapping[str, float],
    logged: Mapping[str, float],
    before: tuple[str, str],
    runtime: Runtime,
    overrides: Sequence[Override],
    progress: Progress,
) -> None:
    """Warn if the loss differs from the logged one by more than rounding, with the likely reason."""
    record = runtime.record()
    now = (record.device, record.precision)
    loss, expected = metrics["loss"], logged.get("loss", math.nan)
    tolerance = max(_TOLERANCE.get(precision, 0.0) for precision in (before[1], now[1]))
    if {before[0], now[0]} - {"", "cpu"}:
        tolerance = max(tolerance, _TOLERANCE_OF_OTHER_DEVICES)
    if loss == expected or (math.isnan(loss) and math.isnan(expected)):
        return
    if abs(loss - expected) <= tolerance * max(abs(expected), _SMALLEST_LOSS):
        return
    # The settings of `run` that matter here, device and precision, are compared below.
    harmless = ("run", *run.config.loading_settings)
    settings = [o.key for o in overrides if not any(f"{o.key}.".startswith(f"{key}.") for key in harmless)]
    reasons = [f"{', '.join(settings)} {'was' if len(settings) == 1 else 'were'} set"] if settings else []
    for what, then, here in zip(("device", "precision"), before, now, strict=True):
        if then and then != here:
            reasons.append(f"the {what} was {then} then and is {here} now")
    why = (
        f"Likely reason: {'; '.join(reasons)}."
        if reasons
        else "Settings, device and precision are the same: the data, the program or its libraries have changed, see "
        "environment.json of the run."
    )
    progress.warn(
        f"The validation loss is {loss:.6g}, but training logged {expected:.6g}; the difference is more than rounding "
        f"explains. {why}"
    )
