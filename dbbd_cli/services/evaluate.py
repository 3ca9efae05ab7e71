"""The full report of a checkpoint on a split it was not trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import ConfigError, DiskError
from dbbd_cli.core.files import write_bytes
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.core.temporary import remove_strays
from dbbd_cli.engine.checkpoint.files import BEST
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.inference import place
from dbbd_cli.report.drawing import reason_of
from dbbd_cli.report.save import check_writable, save_figure
from dbbd_cli.runs.folder import is_run_folder
from dbbd_cli.runs.log import finite
from dbbd_cli.services.bare_weights import open_bare_weights
from dbbd_cli.services.results import EvaluateResult
from dbbd_cli.services.session import build_workload, load_module, open_run
from dbbd_cli.tasks.registry import get_task

EVALUATION_FORMAT = 1


def evaluate(
    target: Path,
    *,
    split: str = "test",
    out: Path | None = None,
    plots: bool = True,
    config: str | None = None,
    overrides: Sequence[Override] = (),
    progress: Progress | None = None,
) -> EvaluateResult:
    """Evaluates a checkpoint on exactly the samples that the run's manifest gives to a split.

    Writes `evaluation.json` and the figures; `predictions.csv` for images, `evaluation_scene.npz` for scenes.

    Args:
        target: a run folder (its best model is taken), a checkpoint file inside one, or a file of DBBD weights that
            belongs to no run, such as a checkpoint of the first implementation.
        split: train, val or test.
        out: folder of the files; the run's own by default, and beside a file that belongs to no run.
        plots: whether figures are drawn.
        config: configuration for a file that belongs to no run, a YAML file or a shipped name.
        overrides: settings that replace those of the run, such as where the data is now.
        progress: shows a bar; nothing is shown by default.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    progress = progress or Silent()
    if split not in ("train", "val", "test"):
        raise ConfigError(f"--split: {split!r} is not a split", hint="choose one of: train, val, test")
    if target.is_file() and not is_run_folder(target.parent):
        home = target.with_name(f"{target.stem}-evaluation")
        check_writable(out or home)
        settings, manifest, epoch = open_bare_weights(target, config=config, overrides=overrides, progress=progress)
        path = target
        workload, runtime = build_workload(settings, manifest, splits=(split,), pretrained=True, progress=progress)
    elif config is not None:
        raise ConfigError("--config: a run has a configuration of its own", hint="change it with --set KEY=VALUE")
    else:
        run = open_run(target, prefer=BEST, overrides=overrides, progress=progress)
        settings, path, epoch, home = run.config, run.path, len(run.state.history), run.folder
        check_writable(out or home)
        workload, runtime = build_workload(
            settings, run.manifest, splits=(split,), pretrained=False, progress=progress, recorded=run.kept_runtime
        )
        load_module(workload, run)
    place(workload.module, runtime)
    with supervised(workload):
        evaluation = workload.evaluate(split, runtime, progress)
    report = finite(
        {
            "format": EVALUATION_FORMAT,
            "task": settings.task,
            "checkpoint": path.name,
            "epoch": epoch,
            "split": split,
            "synthetic": settings.is_synthetic,
            **evaluation.report,
        }
    )
    files = _write(report, evaluation.files, out or home)
    if plots:
        files += _draw(report, evaluation.files, out or home, progress)
    return EvaluateResult(run=home, checkpoint=path, report=report, files=files)


def _write(report: Mapping[str, Any], extra: Mapping[str, bytes], folder: Path) -> list[Path]:
    files = {"evaluation.json": (json.dumps(report, indent=1) + "\n").encode("utf-8"), **extra}
    paths = {_named(folder, name, report["split"]): content for name, content in files.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_strays(folder)
        for path, content in paths.items():
            write_bytes(path, content)
    except OSError as error:
        raise DiskError(
            f"the evaluation cannot be written to {folder}: {error.strerror}",
            hint="choose another folder with --out DIR",
        ) from error
    return list(paths)


def _draw(report: Mapping[str, Any], files: Mapping[str, bytes], folder: Path, progress: Progress) -> list[Path]:
    """Draws the figures; a failure is a warning and does not affect the others, as the report has been written."""

    def failed(name: str, error: Exception) -> None:
        progress.warn(f"{_named(folder, f'{name}.png', report['split']).name} could not be drawn: {reason_of(error)}")

    figures = get_task(report["task"]).figures(report, files.get, failed)
    paths = []
    for name, figure in figures.items():
        try:
            paths.append(save_figure(figure, _named(folder, f"{name}.png", report["split"])))
        except Exception as error:
            failed(name, error)
    return paths


def _named(folder: Path, name: str, split: str) -> Path:
    """The file of a split: another one must not take the place of the report on the test split."""
    stem, dot, suffix = name.rpartition(".")
    return folder / (name if split == "test" else f"{stem}-{split}{dot}{suffix}")
