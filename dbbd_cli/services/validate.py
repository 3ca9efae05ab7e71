"""Compute loss and metrics of a checkpoint on the validation split, as training does."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dbbd_cli.config.load import Override
from dbbd_cli.config.sections import changed_settings
from dbbd_cli.core.paths import shown_value
from dbbd_cli.core.processes import from_environment
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.engine.checkpoint.files import BEST
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.inference import place, run_split
from dbbd_cli.engine.processes import joined
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.services.results import ValidateResult
from dbbd_cli.services.session import OpenedRun, build_workload, load_module, open_run, require_shared_batches

_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 1.6e-2}
"""Largest relative difference from the logged loss, by precision: four roundings in half precision."""
_TOLERANCE_OF_OTHER_DEVICES = 1e-3
_SMALLEST_LOSS = 0.1


def validate(target: Path, *, overrides: Sequence[Override] = (), progress: Progress | None = None) -> ValidateResult:
    """Compute loss and metrics of a checkpoint on the validation split of its run.

    A loss that differs from the logged one causes a warning. If torchrun or `srun` has started several processes, they
    divide the batches among themselves.

    Args:
        target: a run folder (its best model is used), or a checkpoint file inside one.
        overrides: settings that replace those of the run, such as the path of the data.
        progress: shows a bar; nothing is shown by default.

    Raises:
        DbbdError: see the subclasses in `core.errors`.
    """
    member = from_environment(os.environ)
    progress = progress if progress and member.is_first else Silent()
    run = open_run(target, prefer=BEST, overrides=overrides, progress=progress, member=member)
    with joined(member, timeout=run.config.run.process_timeout) as processes:
        processes.require_same_checkpoint(run.digest)
        with processes.in_turns():
            workload, runtime = build_workload(
                run.config,
                run.manifest,
                splits=("val",),
                pretrained=False,
                progress=progress,
                recorded=run.kept_runtime,
                processes=processes,
            )
        require_shared_batches(workload, processes)
        load_module(workload, run)
        place(workload.module, runtime)
        loader = workload.loaders["val"]
        # In the batches of training: the loss of some tasks depends on what is in a batch.
        loader.divide(processes.rank, processes.size, run.batch_size or loader.batch_size)
        with progress.phase("Validate", len(loader), sample_unit=workload.sample_unit) as bar, supervised(workload):
            sums = processes.added_up(run_split(workload, loader, runtime, bar))
            sums.flush()
    history = run.state.history
    metrics = workload.summarize(sums.values, sums.num_samples)
    logged = dict(history[-1]["val"]) if history and run.state.batch == 0 else None
    if logged is not None:
        _compare(run, metrics, logged, runtime, progress)
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


def _compare(
    run: OpenedRun,
    metrics: Mapping[str, float],
    logged: Mapping[str, float],
    runtime: Runtime,
    progress: Progress,
) -> None:
    """Warn if the loss differs from the logged one by more than rounding, with the likely reason."""
    before, now = run.recorded, runtime.record()
    loss, expected = metrics["loss"], logged.get("loss", math.nan)
    tolerance = max(_TOLERANCE[before.precision], _TOLERANCE[now.precision])
    if {before.device, now.device} != {"cpu"}:
        tolerance = max(tolerance, _TOLERANCE_OF_OTHER_DEVICES)
    if loss == expected or (math.isnan(loss) and math.isnan(expected)):
        return
    if abs(loss - expected) <= tolerance * max(abs(expected), _SMALLEST_LOSS):
        return
    reasons = [
        f"{key} was {shown_value(then)} then and is {shown_value(here)} now"
        for key, (then, here) in changed_settings(run.saved, run.config).items()
        if not f"{key}.".startswith(("run.", "data.cache_dir.", "data.num_workers.", "data.worker_timeout."))
    ]
    if before.device != now.device:
        reasons.append(f"the device was {before.device} then and is {now.device} now")
    if before.precision != now.precision:
        reasons.append(f"the precision was {before.precision} then and is {now.precision} now")
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
