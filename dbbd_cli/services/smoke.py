"""Smoke test: run every command once on synthetic data, and check its result."""

from __future__ import annotations

import shutil
import signal
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from dbbd_cli.config.load import Override
from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.errors import ConfigError, DbbdError, DiskError, ExitCode, StoppedError
from dbbd_cli.core.files import repair_of, write_text
from dbbd_cli.core.progress import Phase, Progress, Silent
from dbbd_cli.core.text import counted
from dbbd_cli.engine.checkpoint.files import NEWEST, load_checkpoint, previous_name
from dbbd_cli.engine.runtime import choose_runtime
from dbbd_cli.runs.folder import create_run_folder
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.plot import plot
from dbbd_cli.services.results import SmokeResult, SmokeStep, TrainResult
from dbbd_cli.services.resume import resume
from dbbd_cli.services.train import train
from dbbd_cli.services.training import note_synthetic
from dbbd_cli.services.validate import validate
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.registry import get_task, task_names


def smoke(
    *,
    epochs: int = 2,
    task: str = "all",
    device: str = "auto",
    runs_dir: Path = Path("runs"),
    progress: Progress | None = None,
) -> SmokeResult:
    """Train, interrupt, resume, compare, validate, evaluate and plot small runs.

    If a step fails, all files are kept; otherwise, those that are of no further use are removed.

    Args:
        epochs: epochs of each run.
        task: `all`, or the name of one task.
        device: as in `run.device`.
        runs_dir: a new folder for the runs is created here.
        progress: shows bars and lines; nothing is shown by default.

    Raises:
        ConfigError: there is no such task or device, or epochs is below 1.
        StoppedError: a signal from outside asked to stop.
        DiskError: the disk is full, or cannot be written.
    """
    progress = progress or Silent()
    known = task_names()
    if task != "all" and task not in known:
        raise ConfigError(f"--task: there is no task {task!r}", hint=f"choose one of: all, {', '.join(known)}")
    if epochs < 1:
        raise ConfigError(f"--epochs: {epochs} is too few", hint="pass at least 1")
    names = known if task == "all" else [task]
    runtimes = {
        name: choose_runtime(device, "auto", bf16_on_cpu=get_task(name).config_class.bf16_on_cpu) for name in names
    }
    runtime = runtimes[names[0]]
    start = time.perf_counter()
    folder = create_run_folder(runs_dir.absolute(), "smoke", note_synthetic)
    # On a GPU, the order of summation may vary; only the CPU guarantees identical bits.
    exact = runtime.device.type == "cpu"
    trials = [_Trial(name, epochs, device, exact, folder, progress) for name in names]
    steps = [step for trial in trials for step in trial.run()]
    result = SmokeResult(
        run=folder,
        device=runtime.description,
        precision=_precisions({name: runtime.precision for name, runtime in runtimes.items()}),
        steps=steps,
        seconds=time.perf_counter() - start,
    )
    if result.passed:
        for trial in trials:
            trial.tidy()
        shutil.rmtree(folder / "cache", ignore_errors=True)
    return result


def _precisions(precisions: Mapping[str, str]) -> str:
    """The precision if it is the same for all tasks, otherwise that of each task."""
    if len(set(precisions.values())) == 1:
        return next(iter(precisions.values()))
    return ", ".join(f"{task}: {precision}" for task, precision in precisions.items())


def _require(condition: bool, message: str) -> None:
    # Not `assert`: under `python -O`, every step would pass.
    if not condition:
        raise DbbdError(message)


class _Trial:
    """All steps for one task, each timed and judged; the first failure ends them."""

    uninterrupted: TrainResult
    """The uninterrupted run; set by the step `train`."""
    interrupted: Path
    """The folder of the other run; set by the step `interrupt`."""

    def __init__(self, task: str, epochs: int, device: str, exact: bool, folder: Path, progress: Progress) -> None:
        self.task = task
        self.epochs = epochs
        self.device = device
        self.exact = exact
        self.folder = folder
        self.progress = OnlyBars(progress)

    def run(self) -> Iterator[SmokeStep]:
        for name, take in (
            ("train", self._train),
            ("interrupt", self._interrupt),
            ("resume", self._resume),
            ("compare", self._compare),
            ("validate", self._validate),
            ("evaluate", self._evaluate),
            ("plot", self._plot),
        ):
            step = self._timed(name, take)
            yield step
            if not step.passed:
                break

    def tidy(self) -> None:
        """Delete the checkpoints that only the comparison needed."""
        for file in [*self.interrupted.glob("*.pth"), self.uninterrupted.run / previous_name(1)]:
            with suppress(OSError):
                file.unlink()

    def _timed(self, name: str, take: Callable[[], str]) -> SmokeStep:
        start = time.perf_counter()
        passed = False
        try:
            detail = take()
            passed = True
        except StoppedError:
            raise  # the user's decision, not a failure
        except DiskError as error:
            error.hint = f"{repair_of(error.__cause__)}, then run dbbd smoke again"
            raise
        except DbbdError as error:
            detail = error.message
        except Exception as error:
            # Whatever it is, the table of steps must be shown.
            detail = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …")
            with suppress(OSError):
                write_text(self.folder / f"{self.task}-{name}.traceback.txt", traceback.format_exc())
        return SmokeStep(self.task, name, time.perf_counter() - start, passed, detail)

    def _config(self, run_name: str) -> TaskConfig:
        settings = {
            "task": self.task,
            "training.epochs": self.epochs,
            "run.name": run_name,
            "run.runs_dir": str(self.folder),
            "run.device": self.device,
            "data.cache_dir": str(self.folder / "cache"),
        }
        return load_config(
            get_task(self.task).smoke_config, [Override(key, value, "smoke") for key, value in settings.items()]
        )

    def _train(self) -> str:
        self.uninterrupted = train(self._config(f"{self.task}-whole"), progress=self.progress)
        loss, accuracy = self.uninterrupted.best["loss"], self.uninterrupted.best.get("accuracy")
        shown = "" if accuracy is None else f", accuracy {accuracy:.1%}"
        return f"{counted(self.epochs, 'epoch')}; best epoch: validation loss {loss:.4f}{shown}"

    def _interrupt(self) -> str:
        config = self._config(f"{self.task}-interrupted")
        batches = self.uninterrupted.facts.batches["train"]
        bars = InterruptingBars(self.progress, (self.epochs - 1) * batches + batches // 2)
        try:
            train(config, progress=bars)
        except StoppedError as stopped:
            if bars.left > 0 or stopped.exit_code != ExitCode.INTERRUPTED:
                raise  # not the planned signal
            (self.interrupted,) = self.folder.glob(f"*-{self.task}-interrupted")
            return stopped.message.rstrip(".")
        raise DbbdError("Ctrl-C did not stop the run")

    def _resume(self) -> str:
        result = resume(self.interrupted, progress=self.progress)
        _require(result.epochs == self.epochs, f"{counted(result.epochs, 'epoch')} instead of {self.epochs}")
        return f"{counted(result.epochs, 'epoch')} finished"

    def _compare(self) -> str:
        one, two = load_checkpoint(self.uninterrupted.checkpoint), load_checkpoint(self.interrupted / NEWEST)
        for part in ("module", "optimizer", "learning_rate"):
            _require(same(one[part], two[part], self.exact), f"{part} differs from the uninterrupted run")
        _require(same(one["state"]["history"], two["state"]["history"], self.exact), "the history differs")
        return "resumed = uninterrupted, bit for bit" if self.exact else "resumed = uninterrupted, within rounding"

    def _validate(self) -> str:
        result = validate(self.uninterrupted.run, progress=self.progress)
        difference = abs(result.metrics["loss"] - self.uninterrupted.best["loss"])
        _require(difference <= 1e-6, f"the loss differs from the logged one by {difference:g}")
        return f"loss {result.metrics['loss']:.4f}, as logged"

    def _evaluate(self) -> str:
        result = evaluate(self.uninterrupted.run, progress=self.progress)
        expected = self.uninterrupted.facts.samples["test"]
        found = result.report["num_samples"]
        _require(found == expected, f"{found} samples, not {expected}")
        _check_written(result.files)
        return f"{counted(expected, 'test sample')}, {counted(len(result.files), 'file')}"

    def _plot(self) -> str:
        files = plot([self.uninterrupted.run, self.interrupted], out=self.folder).files
        _check_written(files)
        return ", ".join(file.name for file in files)


def _check_written(files: Sequence[Path]) -> None:
    for file in files:
        _require(file.stat().st_size > 0, f"{file.name} is empty")


def same(one: Any, two: Any, exact: bool) -> bool:
    """Whether nested containers of tensors and plain values are equal, bit for bit or within rounding."""
    if isinstance(one, torch.Tensor):
        if not isinstance(two, torch.Tensor) or one.shape != two.shape:
            return False
        return torch.equal(one, two) if exact else torch.allclose(one, two, rtol=1e-3, atol=1e-5)
    if isinstance(one, Mapping):
        return isinstance(two, Mapping) and one.keys() == two.keys() and all(same(one[k], two[k], exact) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(same(a, b, exact) for a, b in zip(one, two, strict=True))
    if isinstance(one, float) and not exact:
        return abs(one - two) <= 1e-3 * max(1.0, abs(one))
    return bool(one == two)


class OnlyBars(Silent):
    """Passes on only bars and warnings: the headers and tables of every small run would bury the result."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    @contextmanager
    def phase(self, *arguments: Any, **options: Any) -> Iterator[Phase]:
        """Pass the phase on."""
        with self.progress.phase(*arguments, **options) as phase:
            yield phase

    def warn(self, text: str) -> None:
        """Pass the warning on."""
        self.progress.warn(text)


class InterruptingBars(OnlyBars):
    """Presses Ctrl-C after a number of training batches.

    Attributes:
        left: training batches until then; if positive, Ctrl-C was not pressed here.
    """

    def __init__(self, progress: Progress, batches: int) -> None:
        super().__init__(progress)
        self.left = batches
        self._phase: Phase

    @contextmanager
    def phase(self, title: str, *arguments: Any, **options: Any) -> Iterator[Phase]:
        """Pass the phase on, and count its batches if they are for training."""
        with super().phase(title, *arguments, **options) as self._phase:
            yield self if title.endswith("train") else self._phase

    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        """Pass on the progress of a training phase, and press Ctrl-C when it is time."""
        self._phase.advance(count, samples, **values)
        before = self.left
        self.left -= count
        if self.left <= 0 < before:
            signal.raise_signal(signal.SIGINT)
