"""A quick proof that everything works on this machine: each promise of the tool, once, on made-up data."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dbbd_cli.config.load import Override, load_config
from dbbd_cli.config.schema import SCHEMAS, Config
from dbbd_cli.engine.checkpoint import load_checkpoint
from dbbd_cli.engine.run_folder import create_run_folder
from dbbd_cli.engine.runtime import choose_runtime
from dbbd_cli.errors import ConfigError, DbbdError, StoppedError
from dbbd_cli.progress import Phase, Progress, Silent
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.plot import plot
from dbbd_cli.services.results import SmokeResult, SmokeStep, TrainResult
from dbbd_cli.services.resume import resume
from dbbd_cli.services.train import train
from dbbd_cli.services.validate import validate

CONFIGS = {"image_classification": "smoke_qr"}
"""The shipped configuration that each task is tried with."""


def smoke(
    *,
    epochs: int = 2,
    task: str = "all",
    device: str = "auto",
    runs_dir: Path = Path("runs"),
    progress: Progress | None = None,
) -> SmokeResult:
    """Trains, interrupts, resumes, compares, validates, evaluates and plots small runs.

    Args:
        epochs: epochs of each run.
        task: `all`, or the name of one task.
        device: as in `run.device`.
        runs_dir: a new folder is made here for the runs.
        progress: shows bars and lines; nothing is shown by default.

    Raises:
        ConfigError: there is no such task or device, or epochs is below 1.
    """
    progress = progress or Silent()
    if task != "all" and task not in CONFIGS:
        raise ConfigError(f"--task: there is no task {task!r}", hint=f"choose one of: all, {', '.join(SCHEMAS)}")
    if epochs < 1:
        raise ConfigError(f"--epochs: {epochs} is too few", hint="give at least 1")
    choose_runtime(device, "auto")
    start = time.perf_counter()
    folder = create_run_folder(runs_dir.absolute(), "smoke")
    steps: list[SmokeStep] = []
    for name in CONFIGS if task == "all" else [task]:
        steps += _Trial(name, epochs, device, folder, progress).run()
    return SmokeResult(run=folder, steps=steps, seconds=time.perf_counter() - start)


class _Trial:
    """All steps for one task, each timed and judged."""

    def __init__(self, task: str, epochs: int, device: str, folder: Path, progress: Progress) -> None:
        self.task = task
        self.epochs = epochs
        self.device = device
        self.folder = folder
        self.progress = _Bars(progress)
        self.steps: list[SmokeStep] = []
        self.whole: TrainResult | None = None
        self.interrupted: Path | None = None

    def run(self) -> list[SmokeStep]:
        for name, step in (
            ("train", self._train),
            ("interrupt", self._interrupt),
            ("resume", self._resume),
            ("compare", self._compare),
            ("validate", self._validate),
            ("evaluate", self._evaluate),
            ("plot", self._plot),
        ):
            if not self._take(name, step):
                break
        return self.steps

    def _take(self, name: str, step: Callable[[], str]) -> bool:
        start = time.perf_counter()
        try:
            detail, passed = step(), True
        except DbbdError as error:
            detail, passed = error.message, False
        except AssertionError as error:
            detail, passed = str(error), False
        self.steps.append(SmokeStep(self.task, name, time.perf_counter() - start, passed, detail))
        return passed

    def _config(self, run_name: str) -> Config:
        settings = {
            "training.epochs": self.epochs,
            "run.name": run_name,
            "run.runs_dir": str(self.folder),
            "run.device": self.device,
            "data.cache_dir": str(self.folder / "cache"),
        }
        return load_config(CONFIGS[self.task], [Override(key, value, "smoke") for key, value in settings.items()])

    def _train(self) -> str:
        self.whole = train(self._config(f"{self.task}-whole"), progress=self.progress)
        loss, accuracy = self.whole.best["loss"], self.whole.best.get("accuracy")
        shown = "" if accuracy is None else f", accuracy {accuracy:.1%}"
        return f"{self.epochs} epochs, best validation loss {loss:.4f}{shown}"

    def _interrupt(self) -> str:
        config = self._config(f"{self.task}-interrupted")
        assert self.whole is not None
        batches = self.whole.facts.batches["train"]
        after = (self.epochs - 1) * batches + batches // 2
        try:
            train(config, progress=_InterruptingBars(self.progress, after))
        except StoppedError as stopped:
            (self.interrupted,) = self.folder.glob(f"*-{self.task}-interrupted")
            return stopped.message
        raise AssertionError("Ctrl-C did not stop the run")

    def _resume(self) -> str:
        assert self.interrupted is not None
        result = resume(self.interrupted, progress=self.progress)
        assert result.epochs == self.epochs, f"{result.epochs} epochs instead of {self.epochs}"
        return f"went on to epoch {result.epochs}"

    def _compare(self) -> str:
        assert self.whole is not None
        assert self.interrupted is not None
        one, two = load_checkpoint(self.whole.checkpoint), load_checkpoint(self.interrupted / "ckpt.pth")
        # On a GPU sums may be taken in another order; only the CPU promises every bit.
        exact = choose_runtime(self.device, "auto").device.type == "cpu"
        for part in ("module", "optimizer", "learning_rate"):
            assert same(one[part], two[part], exact), f"{part} differs from the uninterrupted run"
        assert same(one["state"]["history"], two["state"]["history"], exact), "the history differs"
        return "resumed = uninterrupted, bit for bit" if exact else "resumed = uninterrupted, within rounding"

    def _validate(self) -> str:
        assert self.whole is not None
        result = validate(self.whole.run, progress=self.progress)
        difference = abs(result.metrics["loss"] - self.whole.best["loss"])
        assert difference <= 1e-6, f"the loss differs from the logged one by {difference:g}"
        return f"loss {result.metrics['loss']:.4f}, as logged"

    def _evaluate(self) -> str:
        assert self.whole is not None
        result = evaluate(self.whole.run, progress=self.progress)
        expected = self.whole.facts.samples["test"]
        assert result.report["num_samples"] == expected, f"{result.report['num_samples']} samples, not {expected}"
        assert all(file.stat().st_size > 0 for file in result.files), "an empty file"
        return f"{expected} test samples, {len(result.files)} files"

    def _plot(self) -> str:
        assert self.whole is not None
        assert self.interrupted is not None
        files = plot([self.whole.run, self.interrupted], out=self.folder).files
        assert all(file.stat().st_size > 0 for file in files), "an empty file"
        return ", ".join(file.name for file in files)


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


class _Bars:
    """Passes on bars and warnings alone: the headers and tables of every small run would hide the result."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, noun: str = "samples"
    ) -> Iterator[Phase]:
        with self.progress.phase(title, total, unit, done, noun) as phase:
            yield phase

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        self.progress.warn(text)


class _InterruptingBars(_Bars):
    """Presses Ctrl-C after some training batches."""

    def __init__(self, progress: Progress, batches: int) -> None:
        super().__init__(progress)
        self.left = batches

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, noun: str = "samples"
    ) -> Iterator[Phase]:
        with super().phase(title, total, unit, done, noun) as phase:
            yield _InterruptingPhase(self, phase) if title.endswith("train") else phase


class _InterruptingPhase:
    def __init__(self, owner: _InterruptingBars, phase: Phase) -> None:
        self.owner = owner
        self.phase = phase

    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        self.phase.advance(count, samples, **values)
        self.owner.left -= count
        if self.owner.left == 0:
            signal.raise_signal(signal.SIGINT)
