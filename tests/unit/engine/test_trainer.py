from __future__ import annotations

import copy
import errno
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dbbd_cli.config.sections import TaskConfig, to_plain
from dbbd_cli.core.errors import DataError, DiskError, NotFiniteError, StoppedError
from dbbd_cli.core.progress import Phase, Progress, Silent
from dbbd_cli.core.signals import StopRequest
from dbbd_cli.data.loader import BatchLoader, Key
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.engine.nonfinite import check_weights, step_if_finite
from dbbd_cli.engine.optimizer import build_optimizer, load_optimizer
from dbbd_cli.engine.runtime import Runtime, choose_runtime
from dbbd_cli.engine.state import Sums, TrainState
from dbbd_cli.engine.trainer import Trainer, fit
from dbbd_cli.model.output import DeferredMetric, StepOutput
from dbbd_cli.runs.log import RunLog
from dbbd_cli.services.smoke import same
from dbbd_cli.tasks.configs import config_from_mapping

CPU = choose_runtime("cpu", "fp32")


class Line:
    """Points of y = 2x; the last of the epoch is far off, so that a mean of batch means would be wrong."""

    def __init__(self, count: int = 10) -> None:
        self.x = torch.linspace(-1, 1, count)[:, None]
        self.y = 2 * self.x

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, keys: list[Key]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        index = np.asarray([key[1] for key in keys])
        return self.x[index], self.y[index], index


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> StepOutput:
        errors = (self.layer(x) - y).square()
        return StepOutput(loss=errors.mean(), metrics={"error": errors.detach().sum()}, num_samples=len(x))


class LineTask:
    """The smallest task: the engine needs no more of one."""

    monitor = "loss"
    sample_unit = "points"
    progress_metrics = ("loss",)
    model_name = "a line"
    data_description = "points of y = 2x"
    out_of_memory_hint = "draw fewer points"

    def __init__(self, batch_size: int = 4) -> None:
        self.module: nn.Module = Regression()
        self.train, self.val = Line(), Line()
        self.loaders: Mapping[str, BatchLoader] = {
            "train": BatchLoader(self.train, batch_size=batch_size, shuffle=True, seed=1),
            "val": BatchLoader(self.val, batch_size=batch_size, shuffle=False, seed=1),
        }

    def to_device(self, batch: Any, device: torch.device, *, train: bool) -> tuple[Any, ...]:
        return batch[0], batch[1]

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        return {name: value / num_samples for name, value in sums.items()}

    def warning(self, metrics: Mapping[str, float]) -> str:
        return ""

    def names(self, batch: Any, split: str) -> list[str]:
        return [f"{split}/{index}" for index in batch[2]]


class Lines(Silent):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class NormalizedTask(LineTask):
    """The same with a batch normalization, whose statistics each forward pass changes."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__(batch_size)
        self.module = Normalized()


class Normalized(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> StepOutput:
        return super().forward(self.norm(x), y)


class Late(Runtime):
    """The CPU, treated as a device whose values are read at logging intervals only."""

    @property
    def is_async(self) -> bool:
        return True


@pytest.fixture(params=[CPU, Late(**vars(CPU))], ids=["read at once", "read late"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    made: Runtime = request.param
    return made


def config(log_every_steps: int = 1, **training: Any) -> TaskConfig:
    values = {
        "task": "image_classification",
        "run": {"log_every_steps": log_every_steps},
        "training": {"epochs": 3, "batch_size": 4, "learning_rate": 0.1, **training},
    }
    return config_from_mapping(values, origin="test")


def run(
    task: LineTask,
    folder: Path,
    stop: StopRequest | None = None,
    progress: Progress | None = None,
    runtime: Runtime = CPU,
    **training: Any,
) -> Trainer:
    # Where values are read late, that is once per epoch.
    trainer = Trainer(task, config(1000 if runtime.is_async else 1, **training), runtime)
    log = RunLog(folder, step=0, history=[], command=[])
    try:
        fit(trainer, folder, log, progress or Silent(), StopRequest() if stop is None else stop)
    finally:
        log.close()
    return trainer


def weight(task: LineTask) -> float:
    return float(task.module.layer.weight.detach())  # type: ignore[union-attr,operator]


def test_it_learns_and_keeps_history_and_checkpoints(tmp_path: Path) -> None:
    task = LineTask()
    trainer = run(task, tmp_path, epochs=20, scheduler="none")
    assert weight(task) == pytest.approx(2.0, abs=0.2)
    losses = [row["val"]["loss"] for row in trainer.state.history]
    assert losses[-1] < losses[0]
    assert trainer.state.best_value == min(losses)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row for row in rows if row["kind"] == "epoch"] == trainer.state.history
    assert len([row for row in rows if row["kind"] == "step"]) == 60
    best = load_checkpoint(tmp_path / "best_model.pth")
    assert best["state"]["history"][-1]["val"]["loss"] == min(losses)


def test_loss_of_an_epoch_is_the_mean_over_samples_not_over_batches(tmp_path: Path) -> None:
    task = LineTask()
    task.train.y = torch.zeros(10, 1)
    task.val.y = torch.tensor([0.0] * 9 + [10.0])[:, None]
    trainer = run(task, tmp_path, epochs=1, learning_rate=1e-12, min_lr=0.0)
    row = trainer.state.history[0]
    assert row["val"]["loss"] == pytest.approx(10.0)  # 100 / 10; the mean of batch means would be 16.7
    assert row["val"]["error"] == pytest.approx(10.0)


class ScoredTask(LineTask):
    """Its validation accuracy is given by the test; the loss improves in every epoch."""

    monitor = "accuracy"

    def __init__(self, accuracies: list[float]) -> None:
        super().__init__()
        self.accuracies = iter(accuracies)
        self.accuracy = 0.0

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        metrics = super().summarize(sums, num_samples)
        if self.module.training:
            self.accuracy = 0.0
            return metrics
        self.accuracy = self.accuracy or next(self.accuracies)
        return {**metrics, "accuracy": self.accuracy}


def test_the_best_epoch_and_early_stopping_follow_the_metric_that_decides(tmp_path: Path) -> None:
    task, told = ScoredTask([0.5, 0.75, 0.75, 0.7, 0.99]), Records()
    trainer = run(task, tmp_path, epochs=5, scheduler="none", early_stopping_patience=2, progress=told)
    state = trainer.state
    assert [row["best"] for row in state.history] == [True, True, False, False]
    assert (state.best_epoch, state.best_value) == (2, -0.75)
    losses = [row["val"]["loss"] for row in state.history]
    assert losses == sorted(losses, reverse=True), "the loss alone would have chosen the last epoch"
    assert len(load_checkpoint(tmp_path / "best_model.pth")["state"]["history"]) == 2
    assert told.lines[0].split()[-4:] == ["val", "accuracy", "lr", "time"]
    assert told.lines[-1] == "Early stopping: no better validation accuracy for 2 epochs"


class Records(Silent):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.shown: set[str] = set()

    def line(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        records = self

        class Recording:
            def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
                records.shown |= set(values)

        yield Recording()


def test_what_a_task_warns_of_is_told_and_logged_once(tmp_path: Path) -> None:
    asked: list[float] = []

    class Worried(LineTask):
        def warning(self, metrics: Mapping[str, float]) -> str:
            asked.append(metrics["error"])
            return f"worried by {metrics['error']:.3f}" if len(asked) > 2 else ""

    progress = Records()
    run(Worried(), tmp_path, progress=progress, epochs=3)
    assert progress.warnings == [f"worried by {asked[2]:.3f}"]
    assert (tmp_path / "run.log").read_text().count("worried by") == 1


def test_the_metrics_of_the_headline_are_shown_and_all_are_logged(tmp_path: Path) -> None:
    class Headline(LineTask):
        progress_metrics = ("loss", "error")

    for task, shown in ((LineTask(), {"loss"}), (Headline(), {"loss", "error"})):
        progress, folder = Records(), tmp_path / str(len(shown))
        folder.mkdir()
        history = run(task, folder, progress=progress, epochs=1).state.history
        assert progress.shown - {"learning_rate", "lr"} == shown
        heading = next(line for line in progress.lines if "loss" in line)
        assert ("error" in heading) == ("error" in shown)
        assert set(history[0]["train"]) == set(history[0]["val"]) == {"loss", "error"}


def test_sums_are_exact_whenever_they_are_read() -> None:
    outputs = [StepOutput(torch.tensor(0.1 * n), {"correct": torch.tensor(n)}, n) for n in (3, 5, 2)]
    often, once = Sums(), Sums()
    for output in outputs:
        often.add(output)
        often.flush()
        once.add(output)
    assert often.plain() == once.plain()
    assert once.num_samples == 10
    assert once.values["loss"] == pytest.approx(0.1 * (9 + 25 + 4))
    assert once.values["correct"] == 10


def test_what_is_computed_on_reading_stands_in_its_place() -> None:
    sums = Sums()
    for n in (3, 5):
        metrics = {
            "a": torch.tensor(1.0),
            "rank": DeferredMetric(torch.tensor([n, 7]), lambda x: float(x[0])),
            "b": torch.tensor(2),
        }
        sums.add(StepOutput(torch.tensor(1.0), metrics, n))
    sums.flush()
    assert sums.values == {"loss": 8.0, "a": 2.0, "rank": 9.0 + 25.0, "b": 4.0}


def test_batches_of_a_step_that_was_left_out_do_not_count() -> None:
    sums = Sums()
    for n, good in ((1, True), (2, False), (3, True)):
        sums.add(StepOutput(torch.tensor(1.0 if good else math.nan), {}, n))
        sums.count_where(torch.tensor(good), 1)
    sums.add(StepOutput(torch.tensor(2.0), {}, 4))
    sums.flush()
    assert (sums.values, sums.num_samples) == ({"loss": 1.0 + 3.0 + 8.0}, 8)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("first", [True, False])
def test_a_step_that_is_left_out_on_the_device_changes_nothing(optimizer: str, first: bool) -> None:
    module = nn.Linear(3, 2)
    made = build_optimizer(module, config(optimizer=optimizer).training, torch.device("cpu"))
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step(finite: bool) -> None:
        module.zero_grad()
        module(torch.ones(1, 3)).sum().backward()
        if not finite:
            module.weight.grad.fill_(math.nan)  # type: ignore[union-attr]
        step_if_finite(torch.tensor(finite), made, scaler)

    if not first:
        step(finite=True)
    before = copy.deepcopy((module.state_dict(), made.state_dict()["state"]))
    step(finite=False)
    after = copy.deepcopy((module.state_dict(), made.state_dict()["state"]))
    assert same(before[0], after[0], exact=True)
    if not first:
        assert same(before[1], after[1], exact=True)
    step(finite=True)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    assert not torch.equal(before[0]["weight"], module.weight)


def test_accumulated_batches_make_the_gradient_of_one_large_batch(tmp_path: Path) -> None:
    weights = []
    for batch_size, accumulate in ((10, 1), (4, 3), (3, 4)):  # 4 + 4 + 2 and 3 + 3 + 3 + 1 samples
        task = LineTask(batch_size)
        folder = tmp_path / str(accumulate)
        folder.mkdir()
        run(task, folder, epochs=1, batch_size=batch_size, accumulate_batches=accumulate, optimizer="sgd")
        weights.append(weight(task))
    assert weights[1] == pytest.approx(weights[0], rel=1e-6)
    assert weights[2] == pytest.approx(weights[0], rel=1e-6)
    assert weights[0] != 0.0


def test_the_gradient_is_clipped(tmp_path: Path) -> None:
    moved = []
    for clip in (None, 0.01):
        task = LineTask(batch_size=10)
        folder = tmp_path / str(clip)
        folder.mkdir()
        run(task, folder, epochs=1, clip_grad_norm=clip, optimizer="sgd", weight_decay=0.0)
        moved.append(abs(weight(task)))
    assert moved[1] == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert moved[0] > 10 * moved[1]


def test_early_stopping_waits_for_its_patience_and_min_delta(tmp_path: Path) -> None:
    trainer = run(LineTask(), tmp_path, epochs=8, scheduler="none", early_stopping_patience=4)
    assert not trainer.state.stopped_early  # every epoch was better than the one before
    assert len(trainer.state.history) == 8
    (tmp_path / "two").mkdir()
    trainer = run(LineTask(), tmp_path / "two", epochs=50, early_stopping_patience=3, early_stopping_min_delta=1e6)
    # The first epoch counts as an improvement over nothing; three more pass.
    assert len(trainer.state.history) == 4
    assert trainer.state.stopped_early


def test_a_bad_loss_stops_before_the_update_and_names_the_batch(tmp_path: Path, runtime: Runtime) -> None:
    task = LineTask()
    task.train.y[7] = math.nan
    with pytest.raises(NotFiniteError) as caught:
        run(task, tmp_path, runtime=runtime)
    assert "train/7" in caught.value.details
    assert "were not updated" in caught.value.message
    assert math.isfinite(weight(task))


def test_a_bad_loss_in_an_earlier_batch_of_the_step_is_the_one_that_is_named(tmp_path: Path, runtime: Runtime) -> None:
    task = LineTask()
    order = [index for batch in task.loaders["train"].plan(1) for _, index in batch]
    task.train.y[order[1]] = math.nan
    with pytest.raises(NotFiniteError) as caught:
        run(task, tmp_path, runtime=runtime, accumulate_batches=3)
    assert sorted(caught.value.details[1:]) == sorted(f"train/{index}" for index in order[:4])
    assert "No checkpoint had been saved yet" in caught.value.hint


def test_a_bad_gradient_stops_too(tmp_path: Path, runtime: Runtime) -> None:
    task = LineTask()
    task.module.layer.weight.register_hook(lambda grad: grad * math.inf)  # type: ignore[union-attr,operator]
    with pytest.raises(NotFiniteError, match="the gradient is not finite"):
        run(task, tmp_path, runtime=runtime)
    assert weight(task) == 0.0


def test_a_bad_validation_loss_ends_the_run_and_does_not_become_the_best(tmp_path: Path) -> None:
    task = LineTask()
    run(task, tmp_path, epochs=1)
    task.val.y[0] = math.nan
    before = (tmp_path / "best_model.pth").read_bytes()
    (tmp_path / "two").mkdir()
    with pytest.raises(NotFiniteError, match="the validation loss is nan"):
        run(task, tmp_path / "two")
    assert not (tmp_path / "two" / "best_model.pth").exists()
    assert (tmp_path / "best_model.pth").read_bytes() == before


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_that_are_not_finite_can_be_left_out(
    tmp_path: Path, runtime: Runtime, optimizer: str, accumulate: int
) -> None:
    task = NormalizedTask()
    batches = task.loaders["train"].plan(1)
    task.train.x[batches[1][0][1]] = math.nan
    progress = Lines()
    settings = {"epochs": 1, "on_nonfinite": "skip", "accumulate_batches": accumulate, "optimizer": optimizer}
    trainer = run(task, tmp_path, progress=progress, runtime=runtime, **settings)
    left_out = batches[:2] if accumulate == 2 else batches[1:2]
    assert trainer.state.skipped_steps == 1
    assert trainer.state.step == math.ceil(3 / accumulate)  # the schedule keeps its place
    assert all(torch.isfinite(value).all() for value in task.module.state_dict().values())
    # The statistics are those of the other batches alone, and so are the sums.
    assert int(task.module.norm.num_batches_tracked) == 3 - len(left_out)
    assert math.isfinite(trainer.state.history[0]["train"]["loss"])
    (warning,) = progress.warnings
    assert warning.endswith("left out (1 of at most 10)")
    assert f"train/{batches[1][0][1]}" in (tmp_path / "run.log").read_text(encoding="utf-8")


def test_no_more_steps_are_left_out_than_is_allowed(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(NotFiniteError, match="step 3: the loss"):
        run(_all_bad(), tmp_path, runtime=runtime, on_nonfinite="skip", max_skipped_steps=2)
    with pytest.raises(NotFiniteError, match="no step of the epoch"):
        run(_all_bad(), tmp_path, runtime=runtime, on_nonfinite="skip")


def _all_bad() -> LineTask:
    task = LineTask()
    task.train.y[:] = math.nan
    return task


@pytest.mark.parametrize("skips", [False, True])
def test_a_step_that_nobody_has_looked_at_is_not_saved(tmp_path: Path, runtime: Runtime, skips: bool) -> None:
    """As where data fails in the middle of an epoch, and what was done until then is saved."""
    task = _all_bad()
    trainer = Trainer(task, config(1000, on_nonfinite="skip" if skips else "stop"), runtime)
    batches = task.loaders["train"].batches

    def failing(epoch: int, start: int = 0) -> Iterator[Any]:
        yield next(iter(batches(epoch, start)))
        raise DataError("gone")

    task.loaders["train"].batches = failing  # type: ignore[method-assign]
    log = RunLog(tmp_path, step=0, history=[], command=[])
    try:
        with pytest.raises(DataError if skips or runtime.is_async else NotFiniteError):
            fit(trainer, tmp_path, log, Silent(), StopRequest())
        if skips:
            trainer.save(tmp_path, log, proven=False)
            assert load_checkpoint(tmp_path / "ckpt.pth")["state"]["skipped_steps"] == 1
        elif runtime.is_async:
            with pytest.raises(NotFiniteError):
                trainer.save(tmp_path, log, proven=False)
    finally:
        log.close()
    assert skips == (tmp_path / "ckpt.pth").exists()


def test_momentum_that_a_checkpoint_lacks_is_zero() -> None:
    module = nn.Linear(3, 2)
    training = config(optimizer="sgd").training
    made = build_optimizer(module, training, torch.device("cpu"))
    load_optimizer(made, {**made.state_dict(), "state": {}}, training, {"learning_rate": training.learning_rate})
    for value in module.parameters():
        assert torch.equal(made.state[value]["momentum_buffer"], torch.zeros_like(value))


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    task = LineTask()
    trainer = Trainer(task, config(), CPU)
    trainer.save(tmp_path)
    before = (tmp_path / "ckpt.pth").read_bytes()
    with torch.no_grad():
        task.module.layer.bias.fill_(math.inf)
    with pytest.raises(NotFiniteError, match=r"layer\.bias holds values that are not finite; nothing was saved"):
        trainer.save(tmp_path, best=True)
    assert (tmp_path / "ckpt.pth").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"ckpt.pth"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_found_anywhere(tmp_path: Path, bad: float) -> None:
    # Sums of large values overflow, and infinities of both signs could cancel out: neither may be taken for the other.
    weights = {"a": torch.full((1000,), 3e38), "count": torch.tensor(3), "none": torch.zeros(0), "b": torch.ones(1001)}
    check_weights(weights, TrainState(), tmp_path)
    for index in (0, 500, 1000):
        weights["b"] = torch.ones(1001)
        weights["b"][index] = bad
        weights["b"][index - 1] = -bad
        with pytest.raises(NotFiniteError, match="b holds values that are not finite"):
            check_weights(weights, TrainState(), tmp_path)


@pytest.mark.parametrize("scheduler", ["cosine", "reduce_on_plateau"])
def test_only_weights_and_optimizer_go_on_changing_in_a_state(tmp_path: Path, scheduler: str) -> None:
    trainer = Trainer(LineTask(), config(epochs=2, scheduler=scheduler), CPU)
    log = RunLog(tmp_path, step=0, history=[], command=[])
    fit(trainer, tmp_path, log, Silent(), StopRequest())
    plain = {key: value for key, value in trainer.to_plain().items() if key not in ("module", "optimizer")}
    before = str(plain)
    trainer.config = config(epochs=4, scheduler=scheduler)
    fit(trainer, tmp_path, log, Silent(), StopRequest())
    log.close()
    assert str(plain) == before != str({key: trainer.to_plain()[key] for key in plain})


def test_what_was_saved_beside_training_is_what_was_saved_in_its_pauses(tmp_path: Path) -> None:
    """Down to the last bit, though the steps of the next epoch change the weights while they are written."""
    for name in ("beside", "pauses"):
        (tmp_path / name).mkdir()
        trainer = Trainer(LineTask(), config(epochs=5), CPU)
        log = RunLog(tmp_path / name, step=0, history=[], command=[])
        with trainer.writer if name == "beside" else nullcontext():
            fit(trainer, tmp_path / name, log, Silent(), StopRequest())
        log.close()
    for file in ("ckpt.pth", "ckpt.previous.pth", "best_model.pth"):
        beside, pauses = (load_checkpoint(tmp_path / name / file) for name in ("beside", "pauses"))
        for state in (beside, pauses):
            state["state"].update(seconds=0.0, seconds_at_epoch=0.0)
            state.pop("random")  # goes on from one run to the next
        assert str(beside) == str(pauses)


def test_a_save_that_failed_beside_training_ends_it_after_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(LineTask(), config(), CPU)
    log = RunLog(tmp_path, step=0, history=[], command=[])

    def full(_number: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Slow(Silent):
        @contextmanager
        def phase(self, *_: Any, **__: Any) -> Iterator[Phase]:
            class Waiting:
                def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
                    trainer.writer._join()  # a step takes longer than a save here

            yield Waiting()

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left on device"), trainer.writer:
        fit(trainer, tmp_path, log, Slow(), StopRequest())
    log.close()
    assert (trainer.state.epoch, trainer.state.batch) == (2, 1)


def test_nothing_is_written_beside_the_start_of_the_processes_that_load_validation_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be forks, in which the locks of another thread would never be let go."""
    task = LineTask()
    often = config_from_mapping({**to_plain(config(epochs=1)), "checkpoint": {"every_steps": 2}}, origin="test")
    trainer = Trainer(task, often, CPU)
    log = RunLog(tmp_path, step=0, history=[], command=[])
    fsync, batches, seen = os.fsync, task.loaders["val"].batches, []

    def slow(number: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            seen.append("written")
            time.sleep(0.3)
        fsync(number)

    def watched(*arguments: Any, **names: Any) -> Iterator[Any]:
        assert "checkpoint" not in [thread.name for thread in threading.enumerate()]
        seen.append("validated")
        return batches(*arguments, **names)

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(task.loaders["val"], "batches", watched)
    with trainer.writer:
        fit(trainer, tmp_path, log, Silent(), StopRequest())
    log.close()
    assert seen[0] == "written"
    assert seen[-1] == "validated"


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_stopped_after_any_step_and_resumed_it_ends_the_same(tmp_path: Path, after: int) -> None:
    whole = run(_folder_task(tmp_path / "whole"), tmp_path / "whole")

    class StopAfter(StopRequest):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.left = count

        def __bool__(self) -> bool:
            self.left -= 1
            if self.left <= 0:
                self.signal_number = signal.SIGTERM
            return self.signal_number is not None

    folder = tmp_path / "stopped"
    with pytest.raises(StoppedError) as caught:
        run(_folder_task(folder), folder, StopAfter(after))
    assert caught.value.exit_code == 143
    trainer = Trainer(LineTask(), config(), CPU)
    trainer.load(load_checkpoint(folder / "ckpt.pth"))
    log = RunLog(folder, step=trainer.state.step, history=trainer.state.history, command=[])
    fit(trainer, folder, log, Silent(), StopRequest())
    log.close()
    assert trainer.state.history == whole.state.history
    assert str(trainer.optimizer.state_dict()) == str(whole.optimizer.state_dict())
    assert (folder / "history.jsonl").read_text() == (tmp_path / "whole" / "history.jsonl").read_text()


def _folder_task(folder: Path) -> LineTask:
    folder.mkdir()
    return LineTask()


def test_history_follows_the_checkpoint(tmp_path: Path) -> None:
    history = run(LineTask(), tmp_path, epochs=2).state.history
    path = tmp_path / "history.jsonl"
    whole = path.read_text().splitlines()
    with path.open("a") as file:  # what a run leaves that is killed between checkpoints
        file.write('{"kind": "step", "epoch": 3, "step": 7}\n{"kind": "step", "ep')
    RunLog(tmp_path, step=6, history=history, command=[]).close()
    assert path.read_text().splitlines() == whole
    RunLog(tmp_path, step=6, history=history[:1], command=[]).close()  # epoch 2 was trained but not validated
    assert path.read_text().splitlines() == whole[:-1]
    path.unlink()
    RunLog(tmp_path, step=6, history=history, command=[]).close()
    assert path.read_text().splitlines() == [line for line in whole if '"epoch", ' in line]


def test_the_events_hold_the_promised_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(LineTask(), tmp_path, epochs=2)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "val/loss", "learning_rate"} <= tags
    assert len(events.Scalars("val/loss")) == 2


class AskedToStop(Line):
    """Asks for a stop, as the handler of a signal does, while its second batch is waited for."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__()
        self.stop, self.made, self.finished = stop, 0, 0

    def __getitems__(self, keys: list[Key]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        self.made += 1
        if self.made == 2:
            self.stop.ask(signal.SIGTERM)
        self.finished += 1
        return super().__getitems__(keys)


# Between steps the second batch is not waited for; in the middle of accumulating, the step is finished with it.
@pytest.mark.parametrize(("accumulate", "finished"), [(1, 1), (2, 2)])
def test_a_stop_while_a_batch_is_waited_for(tmp_path: Path, accumulate: int, finished: int) -> None:
    task, stop = LineTask(), StopRequest()
    asked = AskedToStop(stop)
    task.loaders = {**task.loaders, "train": BatchLoader(asked, batch_size=4, shuffle=True, seed=1)}
    with pytest.raises(StoppedError, match=r"Stopped after step 1 of epoch 1; everything is saved\."):
        run(task, tmp_path, stop=stop, accumulate_batches=accumulate)
    saved = load_checkpoint(tmp_path / "ckpt.pth")
    assert (saved["state"]["step"], saved["state"]["batch"]) == (1, finished)
    assert asked.finished - (saved["proof"] is not None) == finished  # the proof makes the next batch


def test_lines_that_are_no_entries_do_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    nested = '{"kind": "step", "step": 1, "x": ' + "[" * 900 + "]" * 900 + "}"
    good = '{"kind": "step", "step": 2}'
    (tmp_path / "history.jsonl").write_text("\n".join([nested, "torn {", '{"kind": "step", "step": "3"}', good, ""]))
    RunLog(tmp_path, step=6, history=[], command=[]).close()
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert good in lines
    assert "torn {" not in lines
