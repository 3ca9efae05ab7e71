"""Judge new samples with the network of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.core.temporary import remove_strays
from dbbd_cli.data.inputs import Input, input_of
from dbbd_cli.engine.checkpoint.files import BEST
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.inference import place
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.engine.workload import Workload
from dbbd_cli.report.calibration import read_calibration
from dbbd_cli.report.prediction import Calibration, Result
from dbbd_cli.report.save import check_writable
from dbbd_cli.runs.folder import CALIBRATION, PREDICTIONS
from dbbd_cli.runs.output_folder import OutputFolder
from dbbd_cli.services.session import OpenedRun, build_workload, load_module, open_run
from dbbd_cli.tasks.base import Task
from dbbd_cli.tasks.registry import get_task

_NOT_CALIBRATED = "the probabilities are not calibrated, and the threshold is 0.5"


def predict(
    target: Path,
    inputs: Iterable[str],
    *,
    explain: bool = False,
    out: Path | None = None,
    overrides: Sequence[Override] = (),
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Judge a stream of inputs, in order, one batch after the other; memory does not grow with their number.

    A run on scenes writes files for each scene instead.

    The network is loaded at the call; the inputs are read as the results are asked for.

    Args:
        target: a run folder (its best model is used), or a checkpoint file inside one.
        inputs: paths of files and folders, and URLs if the run judges these; see `data.inputs`.
        explain: whether to say what in an input moved the verdict.
        out: folder for the files of a run that writes some; None: `predictions` in the run folder.
        overrides: settings that replace those of the run, such as the device.
        progress: receives messages; nothing is shown by default.

    Raises:
        DbbdError: see the subclasses in `core.errors`. An unreadable input is a result, not an error.
    """
    predictor = open_predictor(target, explain=explain, out=out, overrides=overrides, progress=progress)
    return predictor.predict(map(input_of, inputs))


@dataclass(frozen=True)
class Predictor:
    """The network of a run, ready to judge inputs.

    Attributes:
        task: the task of the run.
        workload: its network, on the device.
        runtime: device and precision.
        calibration: temperature, biases and threshold.
        explain: whether to explain each verdict.
        out: where files go, if the task writes any.
        progress: receives messages.
    """

    task: Task
    workload: Workload
    runtime: Runtime
    calibration: Calibration
    explain: bool
    out: OutputFolder
    progress: Progress

    def predict(self, inputs: Iterable[Input]) -> Iterator[Result]:
        """Judge inputs, one batch after the other; the last batch is judged when the inputs end.

        Raises:
            ConfigError: the task cannot predict or explain, or the threshold is about another class.
        """
        results = self.task.predict(
            self.workload,
            inputs,
            runtime=self.runtime,
            calibration=self.calibration,
            explain=self.explain,
            out=self.out,
            progress=self.progress,
        )
        return self._supervised(results)

    def _supervised(self, results: Iterator[Result]) -> Iterator[Result]:
        with supervised(self.workload):
            yield from results


def open_predictor(
    target: Path,
    *,
    explain: bool = False,
    out: Path | None = None,
    overrides: Sequence[Override] = (),
    progress: Progress | None = None,
) -> Predictor:
    """Load the network of a run, with its calibration; for the arguments, see `predict`.

    Raises:
        DbbdError: see the subclasses in `core.errors`.
    """
    progress = progress or Silent()
    run = open_run(target, prefer=BEST, overrides=overrides, progress=progress)
    task = get_task(run.config.task)
    if out is not None and not task.predicts_files:
        raise ConfigError(
            f"--out: a run of {task.name} writes no files for its inputs",
            hint="leave the option out; --csv and --html write the results to a file",
        )
    folder = out or run.folder / PREDICTIONS
    if task.predicts_files:
        check_writable(folder)
        if folder.is_dir():
            remove_strays(folder)
    calibration = Calibration() if task.predicts_files else _calibration(run, progress)
    workload, runtime = build_workload(
        run.config, run.manifest, splits=(), pretrained=False, progress=progress, recorded=run.kept_runtime
    )
    load_module(workload, run)
    place(workload.module, runtime).eval()
    predictor = Predictor(task, workload, runtime, calibration, explain, OutputFolder(folder), progress)
    predictor.predict([])  # a task that cannot predict says so before anything is read
    return predictor


def _calibration(run: OpenedRun, progress: Progress) -> Calibration:
    """What was fitted for a checkpoint; if there are none, a message says so."""
    try:
        found = read_calibration(run.folder, run.digest)
    except CheckpointError as error:
        progress.warn(f"{error.message}: {_NOT_CALIBRATED}.")
        return Calibration()
    if found is None:
        path = run.folder / CALIBRATION
        why = f"{CALIBRATION} belongs to another checkpoint" if os.path.lexists(path) else f"there is no {CALIBRATION}"
        progress.line(f"{why[:1].upper()}{why[1:]}: {_NOT_CALIBRATED}.")
        return Calibration()
    if found.bias is not None and len(found.bias) != len(run.manifest.classes):
        progress.warn(f"{run.folder / CALIBRATION} is damaged: not one bias per class: {_NOT_CALIBRATED}.")
        return Calibration()
    return Calibration(
        found.temperature,
        found.bias,
        0.5 if found.threshold is None else found.threshold,
        None if found.threshold is None else found.positive_class,
        fitted=True,
    )
