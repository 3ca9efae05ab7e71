"""The real training loop, one step at a time: `fit` itself is timed, not a copy of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import median, spread

from dbbd_cli.config.load import Override
from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.progress import Phase, Silent
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.runtime import seed_everything
from dbbd_cli.engine.state import Sums
from dbbd_cli.engine.trainer import Run, Trainer, fit
from dbbd_cli.runs.log import RunLog
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.session import build_workload
from dbbd_cli.tasks.configs import load_config


@dataclass(frozen=True)
class Step:
    """One training step, in seconds.

    Attributes:
        arithmetic: forward, backward, clipping, optimizer and logging.
        data: waiting for the batch, and moving it to the device.
    """

    arithmetic: float
    data: float


class _EnoughError(Exception):
    """Ends the loop after the requested number of steps."""


class Loop:
    """A run that takes a given number of steps at a time, and continues from there.

    Args:
        config: name of a shipped configuration.
        settings: overrides, by dotted key.
        folder: an empty folder for the run.
    """

    def __init__(self, config: str, settings: Mapping[str, object], folder: Path) -> None:
        self.config, self.manifest = prepare(config, {"run.runs_dir": str(folder), **settings})
        seed_everything(self.config.seed)
        task, runtime = build_workload(
            self.config, self.manifest, splits=("train", "val"), pretrained=True, progress=Silent()
        )
        self.trainer = Trainer(task, self.config, runtime, self.manifest.digest())
        self.folder = folder
        self._watch = _Watch(self.trainer)
        log = RunLog(folder, step=0, history=[], command=())
        self.training = Run(self.trainer, folder, log, self._watch)

    def run(self, steps: int) -> list[Step]:
        """Take a number of steps in a row; they must fit into one epoch."""
        trainer, state = self.trainer, self.trainer.state
        whole = len(trainer.workload.loaders["train"])
        assert steps <= whole
        if state.batch + steps > whole:
            # Begin a new epoch, without validation and checkpoint.
            state.epoch, state.batch, state.sums = state.epoch + 1, 0, Sums()
        self._watch.begin(steps)
        try:
            fit(self.training)
        except _EnoughError:
            return self._watch.steps
        raise AssertionError("the loop ended too early")

    def step(self) -> float:
        """Take one step; return the seconds of its arithmetic."""
        return self.run(1)[0].arithmetic


class _Watch(Silent):
    """Times each step, in the place of a progress bar."""

    def __init__(self, trainer: Trainer) -> None:
        self._runtime = trainer.runtime
        self._wanted = 0
        self._data = 0.0
        self._since = 0.0
        self.steps: list[Step] = []
        task: Any = trainer.workload
        loader = task.loaders["train"]
        make_batches, to_device = loader.batches, task.to_device

        def timed_batches(epoch: int, start: int = 0) -> Iterator[Any]:
            batches = make_batches(epoch, start=start)
            while True:
                with self._counting_data():
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch

        def timed_to_device(*arguments: Any, **options: Any) -> Any:
            with self._counting_data():
                return to_device(*arguments, **options)

        loader.batches, task.to_device = timed_batches, timed_to_device

    def begin(self, steps: int) -> None:
        self._wanted, self._data, self.steps = steps, 0.0, []
        self._since = time.perf_counter()

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        yield self

    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        if len(self.steps) + 1 == self._wanted:
            self._runtime.synchronize()  # not earlier: as in a real run, steps are queued on a GPU
        now = time.perf_counter()
        self.steps.append(Step(now - self._since - self._data, self._data))
        self._since, self._data = now, 0.0
        if len(self.steps) == self._wanted:
            raise _EnoughError

    @contextmanager
    def _counting_data(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._data += time.perf_counter() - start


def prepare(config: str, settings: Mapping[str, object]) -> tuple[TaskConfig, Manifest]:
    """Load a shipped configuration with overrides, and list its samples, as `dbbd train` does."""
    overrides = [Override(key, value, "benchmark") for key, value in settings.items()]
    return prepare_run(load_config(config, overrides), Silent())


def share(seconds: list[float], rates: list[float], gflop: float) -> tuple[float, float]:
    """Return the share of the machine's arithmetic speed that was used, in percent, and its spread.

    Args:
        seconds: time of each run.
        rates: GFLOP/s of the machine, measured next to each run.
        gflop: arithmetic of one run.
    """
    shares = [100 * gflop / (time_ * rate) for time_, rate in zip(seconds, rates, strict=True)]
    return 100 * gflop / (median(seconds) * median(rates)), spread(shares)
