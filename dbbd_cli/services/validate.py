"""The validation loss of a checkpoint, computed as training computes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dbbd_cli.config.load import Override
from dbbd_cli.engine.checkpoint import BEST
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.inference import place, run_split
from dbbd_cli.progress import Progress, Silent
from dbbd_cli.services.results import ValidateResult
from dbbd_cli.services.session import build_task, is_synthetic, load_module, open_run


def validate(target: Path, *, overrides: Sequence[Override] = (), progress: Progress | None = None) -> ValidateResult:
    """Computes loss and metrics of a checkpoint on the validation split of its run.

    Args:
        target: a run folder (its best model is taken), or a checkpoint file inside one.
        overrides: settings that replace those of the run, such as where the data is now.
        progress: shows a bar; nothing is shown by default.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    progress = progress or Silent()
    run = open_run(target, prefer=BEST, overrides=overrides, progress=progress)
    task, runtime = build_task(
        run.config, run.manifest, splits=("val",), pretrained=False, progress=progress, recorded=run.kept_runtime
    )
    load_module(task, run)
    place(task.module, runtime)
    loader = task.loaders["val"]
    with progress.phase("Validate", len(loader), noun=task.noun) as bar, supervised(task):
        sums = run_split(task, loader, runtime, bar)
        sums.flush()
    history = run.state.history
    return ValidateResult(
        run=run.folder,
        checkpoint=run.path,
        epoch=len(history),
        num_samples=sums.num_samples,
        synthetic=is_synthetic(run.config),
        metrics=task.summarise(sums.values, sums.num_samples),
        logged=dict(history[-1]["val"]) if history and run.state.batch == 0 else None,
        device=runtime.description,
        precision=runtime.precision,
    )
