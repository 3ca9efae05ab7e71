"""Training reaches its end, saves what it promises, and can be stopped and resumed anywhere with the same result."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.config.sections import to_plain
from dbbd_cli.core.errors import DataError, DiskError, StoppedError
from dbbd_cli.core.progress import Phase, Silent
from dbbd_cli.core.signals import StopRequest
from dbbd_cli.data.loader import BatchLoader, Key
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.engine.trainer import Run, Trainer, fit, train_step
from dbbd_cli.runs.log import RunLog
from dbbd_cli.services.smoke import same
from dbbd_cli.tasks.configs import config_from_mapping
from unit.engine.line_workload import CPU, Line, LineWorkload, config, start, train, weight
from unit.services.shown_runs import Shown


class Records(Shown):
    """Keeps everything that is shown, bars included."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: set[str] = set()
        self.batches: list[int] = []
        self.samples: list[int] = []

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        records = self

        class Recording:
            def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
                records.shown |= set(values)
                records.batches.append(count)
                records.samples.append(samples)

        yield Recording()


def test_it_learns_and_keeps_history_and_checkpoints(tmp_path: Path) -> None:
    workload = LineWorkload()
    trainer = train(workload, tmp_path, epochs=20, scheduler="none")
    assert weight(workload) == pytest.approx(2.0, abs=0.2)
    losses = [row["val"]["loss"] for row in trainer.state.history]
    assert losses[-1] < losses[0]
    assert trainer.state.best_value == min(losses)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row for row in rows if row["kind"] == "epoch"] == trainer.state.history
    assert len([row for row in rows if row["kind"] == "step"]) == 60
    best = load_checkpoint(tmp_path / "best_model.pth")
    assert best["state"]["history"][-1]["val"]["loss"] == min(losses)


def test_loss_of_an_epoch_is_the_mean_over_samples_not_over_batches(tmp_path: Path) -> None:
    workload = LineWorkload()
    workload.train.y = torch.zeros(10, 1)
    workload.val.y = torch.tensor([0.0] * 9 + [10.0])[:, None]
    trainer = train(workload, tmp_path, epochs=1, learning_rate=1e-12, min_lr=0.0)
    row = trainer.state.history[0]
    assert row["val"]["loss"] == pytest.approx(10.0)  # 100 / 10; the mean of batch means would be 16.7
    assert row["val"]["error"] == pytest.approx(10.0)


class ScoredWorkload(LineWorkload):
    """Its validation F1 is given by the test; the loss improves in every epoch."""

    monitor = "f1"

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = iter(scores)
        self.score = 0.0

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        metrics = super().summarize(sums, num_samples)
        if self.module.training:
            self.score = 0.0
            return metrics
        self.score = self.score or next(self.scores)
        return {**metrics, "f1": self.score}


def test_the_best_epoch_and_early_stopping_follow_the_deciding_metric(tmp_path: Path) -> None:
    workload, shown = ScoredWorkload([0.5, 0.75, 0.75, 0.7, 0.99]), Records()
    state = train(workload, tmp_path, epochs=5, scheduler="none", early_stopping_patience=2, progress=shown).state
    assert [row["best"] for row in state.history] == [True, True, False, False]
    assert (state.best_epoch, state.best_value) == (2, -0.75)
    losses = [row["val"]["loss"] for row in state.history]
    assert losses == sorted(losses, reverse=True), "the loss alone would have chosen the last epoch"
    assert len(load_checkpoint(tmp_path / "best_model.pth")["state"]["history"]) == 2
    assert shown.lines[0].split()[-4:] == ["val", "F1", "lr", "time"]
    assert shown.lines[-1] == "Early stopping: no better validation F1 for 2 epochs"


def test_a_warning_of_the_task_is_shown_and_logged_once(tmp_path: Path) -> None:
    asked: list[float] = []

    class Worried(LineWorkload):
        def warning(self, metrics: Mapping[str, float]) -> str:
            asked.append(metrics["error"])
            return f"worried by {metrics['error']:.3f}" if len(asked) > 2 else ""

    progress = Records()
    train(Worried(), tmp_path, progress=progress, epochs=3)
    assert progress.warnings == [f"worried by {asked[2]:.3f}"]
    assert (tmp_path / "run.log").read_text().count("worried by") == 1


def test_progress_metrics_are_shown_and_all_metrics_are_logged(tmp_path: Path) -> None:
    class TwoShown(LineWorkload):
        progress_metrics = ("loss", "error")

    for workload, shown in ((LineWorkload(), {"loss"}), (TwoShown(), {"loss", "error"})):
        progress, folder = Records(), tmp_path / str(len(shown))
        folder.mkdir()
        history = train(workload, folder, progress=progress, epochs=1).state.history
        assert progress.shown == shown
        heading = next(line for line in progress.lines if "loss" in line)
        assert ("error" in heading) == ("error" in shown)
        assert set(history[0]["train"]) == set(history[0]["val"]) == {"loss", "error"}


def test_accumulated_batches_give_the_gradient_of_one_large_batch(tmp_path: Path) -> None:
    weights = []
    for batch_size, accumulate in ((10, 1), (4, 3), (3, 4)):  # 4 + 4 + 2 and 3 + 3 + 3 + 1 samples
        workload, progress = LineWorkload(batch_size), Records()
        folder = tmp_path / str(accumulate)
        folder.mkdir()
        settings = {"batch_size": batch_size, "accumulate_batches": accumulate, "optimizer": "sgd"}
        train(workload, folder, progress=progress, epochs=1, **settings)
        assert (progress.batches[0], progress.samples[0]) == (accumulate, 10)
        weights.append(weight(workload))
    assert weights[1] == pytest.approx(weights[0], rel=1e-6)
    assert weights[2] == pytest.approx(weights[0], rel=1e-6)
    assert weights[0] != 0.0


def test_a_step_takes_its_batches_in_turn_and_moves_the_position() -> None:
    workload = LineWorkload()
    trainer = Trainer(workload, config(accumulate_batches=2), CPU)
    batches = list(workload.loaders["train"].batches(1))
    first, last = train_step(trainer, batches[:2]), train_step(trainer, batches[2:])
    assert (trainer.state.batch, trainer.state.step) == (3, 2)
    assert trainer.epoch_trained
    assert [first.num_samples, last.num_samples] == [8, 2]
    assert first.names == [[f"train/{index}" for index in batch[2]] for batch in batches[:2]]
    assert trainer.state.sums.plain()["num_samples"] == 10
    assert bool(first.finite & last.finite)


def test_the_gradient_is_clipped(tmp_path: Path) -> None:
    moved = []
    for clip in (None, 0.01):
        workload = LineWorkload(batch_size=10)
        folder = tmp_path / str(clip)
        folder.mkdir()
        train(workload, folder, epochs=1, clip_grad_norm=clip, optimizer="sgd", weight_decay=0.0)
        moved.append(abs(weight(workload)))
    assert moved[1] == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert moved[0] > 10 * moved[1]


def test_early_stopping_waits_for_its_patience_and_min_delta(tmp_path: Path) -> None:
    trainer = train(LineWorkload(), tmp_path, epochs=8, scheduler="none", early_stopping_patience=4)
    assert not trainer.state.stopped_early  # every epoch was better than the one before
    assert len(trainer.state.history) == 8
    (tmp_path / "two").mkdir()
    settings = {"epochs": 50, "early_stopping_patience": 3, "early_stopping_min_delta": 1e6}
    trainer = train(LineWorkload(), tmp_path / "two", **settings)
    # The first epoch counts as an improvement over nothing; three more pass.
    assert len(trainer.state.history) == 4
    assert trainer.state.stopped_early


@pytest.mark.parametrize("scheduler", ["cosine", "reduce_on_plateau"])
def test_a_state_shares_only_weights_and_optimizer_with_the_trainer(tmp_path: Path, scheduler: str) -> None:
    """The checkpoint writer copies these two; everything else is written while training continues."""
    workload = LineWorkload()
    trainer = train(workload, tmp_path, epochs=2, scheduler=scheduler)
    plain = {key: value for key, value in trainer.to_plain().items() if key not in ("module", "optimizer")}
    before = str(plain)
    trainer.config = config(epochs=4, scheduler=scheduler)
    with RunLog(tmp_path, step=trainer.state.step, history=trainer.state.history, command=[]) as log:
        fit(Run(trainer, tmp_path, log, Silent()))
    assert str(plain) == before != str({key: trainer.to_plain()[key] for key in plain})


def test_background_saves_write_what_saves_in_the_foreground_write(tmp_path: Path) -> None:
    """Down to the last bit, though the steps of the next epoch change the weights while they are written."""
    for name in ("background", "foreground"):
        (tmp_path / name).mkdir()
        run = start(LineWorkload(), tmp_path / name, config(epochs=5))
        if name == "foreground":
            save = run.save
            run.save = lambda save=save, **options: save(**{**options, "background": False})  # type: ignore[method-assign]
        with run.log:
            fit(run)
    for file in ("ckpt.pth", "ckpt.previous.pth", "best_model.pth"):
        states = [load_checkpoint(tmp_path / name / file) for name in ("background", "foreground")]
        for state in states:
            state["state"].update(seconds=0.0, seconds_at_epoch=0.0)
            state.pop("random")  # continues from one run to the next
        assert str(states[0]) == str(states[1])


def test_a_failed_background_save_ends_the_run_after_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_number: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Slow(Silent):
        @contextmanager
        def phase(self, *_: Any, **__: Any) -> Iterator[Phase]:
            class Waiting:
                def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
                    for thread in threading.enumerate():
                        if thread.name == "checkpoint":
                            thread.join()  # here a step takes longer than a save

            yield Waiting()

    run = start(LineWorkload(), tmp_path, config(), progress=Slow())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left on device"), run.log:
        fit(run)
    assert (run.trainer.state.epoch, run.trainer.state.batch) == (2, 1)


def test_no_save_is_under_way_when_the_first_validation_starts_its_worker_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be forks, in which a lock that another thread holds would never be released."""
    workload = LineWorkload()
    often = config_from_mapping({**to_plain(config(epochs=1)), "checkpoint": {"every_steps": 2}}, origin="test")
    run = start(workload, tmp_path, often)
    fsync, batches, seen = os.fsync, workload.loaders["val"].batches, []

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
    monkeypatch.setattr(workload.loaders["val"], "batches", watched)
    with run.log:
        fit(run)
    assert seen[0] == "written"
    assert seen[-1] == "validated"


class StopAfter(StopRequest):
    """Is asked to stop after a number of checks."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.left = checks

    def __bool__(self) -> bool:
        self.left -= 1
        if self.left <= 0:
            self.signal_number = signal.SIGTERM
        return self.signal_number is not None


def resumed(folder: Path, **training: Any) -> Trainer:
    trainer = Trainer(LineWorkload(), config(**training), CPU)
    trainer.load(load_checkpoint(folder / "ckpt.pth"), folder / "ckpt.pth")
    with RunLog(folder, step=trainer.state.step, history=trainer.state.history, command=[]) as log:
        fit(Run(trainer, folder, log, Silent()))
    return trainer


# With three batches per epoch: after a step, after the last step of an epoch, while validating, in the second epoch.
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("checks", range(1, 9))
def test_a_run_stopped_at_any_check_and_resumed_ends_like_an_uninterrupted_one(
    tmp_path: Path, checks: int, accumulate: int
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    expected = train(LineWorkload(), whole, accumulate_batches=accumulate)
    with pytest.raises(StoppedError) as caught:
        train(LineWorkload(), stopped, StopAfter(checks), accumulate_batches=accumulate)
    assert caught.value.exit_code == 143
    assert caught.value.hint.startswith("continue with: dbbd resume")
    trainer = resumed(stopped, accumulate_batches=accumulate)
    assert trainer.state.history == expected.state.history
    assert same(trainer.optimizer.state_dict(), expected.optimizer.state_dict(), exact=True)
    assert (stopped / "history.jsonl").read_text() == (whole / "history.jsonl").read_text()


class AskedToStop(Line):
    """Asks for a stop, as a signal handler does, while the third batch is awaited."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__()
        self.stop, self.made = stop, 0

    def __getitems__(self, keys: list[Key]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        self.made += 1
        if self.made == 3:
            self.stop.ask(signal.SIGTERM)
        return super().__getitems__(keys)


@pytest.mark.parametrize(("accumulate", "steps", "batches"), [(1, 2, 2), (2, 1, 2), (3, 0, 0)])
def test_a_stop_while_a_batch_is_awaited_leaves_the_position_at_the_last_step(
    tmp_path: Path, accumulate: int, steps: int, batches: int
) -> None:
    """Batches of the next step that have been loaded already are loaded again after a resume."""
    workload, stop = LineWorkload(), StopRequest()
    workload.loaders = {
        **workload.loaders,
        "train": BatchLoader(AskedToStop(stop), batch_size=4, shuffle=True, seed=1),
    }
    when = f"after step {steps}" if steps else "before the first step"
    with pytest.raises(StoppedError, match=rf"Stopped {when} of epoch 1; everything is saved\."):
        train(workload, tmp_path, stop=stop, accumulate_batches=accumulate)
    saved = load_checkpoint(tmp_path / "ckpt.pth")["state"]
    assert (saved["step"], saved["batch"]) == (steps, batches)
    (tmp_path / "whole").mkdir()
    whole = train(LineWorkload(), tmp_path / "whole", accumulate_batches=accumulate)
    assert resumed(tmp_path, accumulate_batches=accumulate).state.history == whole.state.history


def test_a_batch_that_cannot_be_loaded_ends_the_run_with_all_steps_before_it_saved(tmp_path: Path) -> None:
    workload = LineWorkload()
    batches = workload.loaders["train"].batches

    def failing(epoch: int, start: int = 0) -> Iterator[Any]:
        yield from list(batches(epoch, start))[:2]
        raise DataError("gone")

    workload.loaders["train"].batches = failing  # type: ignore[method-assign]
    with pytest.raises(DataError, match="gone"):
        train(workload, tmp_path)
    saved = load_checkpoint(tmp_path / "ckpt.pth")
    assert (saved["state"]["step"], saved["state"]["batch"], saved["proof"]) == (2, 2, None)
