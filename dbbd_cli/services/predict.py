"""Judge new samples with the network of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import reason_of
from dbbd_cli.core.files import read_file
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.data.inputs import Input, input_of
from dbbd_cli.engine.checkpoint.files import BEST
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.inference import place
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.engine.workload import Workload
from dbbd_cli.report.prediction import Calibration, Prediction
from dbbd_cli.services.session import build_workload, load_module, open_run
from dbbd_cli.tasks.base import Task
from dbbd_cli.tasks.registry import get_task

CALIBRATION = "calibration.json"


def predict(
    target: Path,
    inputs: Iterable[str],
    *,
    explain: bool = False,
    overrides: Sequence[Override] = (),
    progress: Progress | None = None,
) -> Iterator[Prediction]:
    """Judge a stream of inputs, in order, one batch after the other; memory does not grow with their number.

    The network is loaded at the call; the inputs are read as the results are asked for.

    Args:
        target: a run folder (its best model is used), or a checkpoint file inside one.
        inputs: paths of files and folders, and URLs if the run judges these; see `data.inputs`.
        explain: whether to say what in an input moved the verdict.
        overrides: settings that replace those of the run, such as the device.
        progress: receives messages; nothing is shown by default.

    Raises:
        DbbdError: see the subclasses in `core.errors`. An unreadable input is a result, not an error.
    """
    predictor = open_predictor(target, explain=explain, overrides=overrides, progress=progress)
    return predictor.predict(map(input_of, inputs))


@dataclass(frozen=True)
class Predictor:
    """The network of a run, ready to judge inputs.

    Attributes:
        task: the task of the run.
        workload: its network, on the device.
        runtime: device and precision.
        calibration: temperature and threshold.
        explain: whether to explain each verdict.
        progress: receives messages.
    """

    task: Task
    workload: Workload
    runtime: Runtime
    calibration: Calibration
    explain: bool
    progress: Progress

    def predict(self, inputs: Iterable[Input]) -> Iterator[Prediction]:
        """Judge inputs, one batch after the other; the last batch is judged when the inputs end.

        Raises:
            ConfigError: the task cannot predict or explain.
        """
        results = self.task.predict(
            self.workload,
            inputs,
            runtime=self.runtime,
            calibration=self.calibration,
            explain=self.explain,
            progress=self.progress,
        )
        return self._supervised(results)

    def _supervised(self, results: Iterator[Prediction]) -> Iterator[Prediction]:
        with supervised(self.workload):
            yield from results


def open_predictor(
    target: Path,
    *,
    explain: bool = False,
    overrides: Sequence[Override] = (),
    progress: Progress | None = None,
) -> Predictor:
    """Load the network of a run, with its calibration; for the arguments, see `predict`.

    Raises:
        DbbdError: see the subclasses in `core.errors`.
    """
    progress = progress or Silent()
    run = open_run(target, prefer=BEST, overrides=overrides, progress=progress)
    calibration = _calibration(run.folder / CALIBRATION, stored_digest(run.path), progress)
    workload, runtime = build_workload(
        run.config, run.manifest, splits=(), pretrained=False, progress=progress, recorded=run.kept_runtime
    )
    load_module(workload, run)
    place(workload.module, runtime)
    predictor = Predictor(get_task(run.config.task), workload, runtime, calibration, explain, progress)
    predictor.predict([])  # a task that cannot predict says so before anything is read
    return predictor


def _calibration(path: Path, digest: str | None, progress: Progress) -> Calibration:
    """The temperature and the threshold of a checkpoint; if there are none, a message says so.

    Args:
        path: the file in the run folder.
        digest: SHA-256 of the checkpoint.
        progress: receives the message.
    """
    so = "the probabilities are not calibrated, and the threshold is 0.5"
    try:
        content: Any = json.loads(read_file(path))
        if content["checkpoint_sha256"] != digest:
            progress.warn(f"{path} belongs to another checkpoint: {so}.")
            return Calibration()
        temperature = float(content["temperature"])
        threshold = 0.5 if content.get("threshold") is None else float(content["threshold"])
        if not (0 < temperature < math.inf and 0 <= threshold <= math.nextafter(1, 2)):
            raise ValueError(f"temperature {temperature:g} and threshold {threshold:g}")
    except FileNotFoundError:
        progress.line(f"The run has no {CALIBRATION}: {so}.")
        return Calibration()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        progress.warn(f"{path} is unusable ({reason_of(error)}): {so}.")
        return Calibration()
    return Calibration(temperature, threshold, fitted=True)
