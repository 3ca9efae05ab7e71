"""A loss or gradient that is NaN or infinite is never applied or saved, and its samples are named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import DBBD, Ended, Forks
from program import differences, only_run
from stored_runs import EVERY_STEP, TASKS, StoredRuns, cases, not_finite, saved_steps, strays, unlike

NETWORK = {
    "image_classification": "dbbd_cli.model.images.classifier.Classifier",
    "dbbd": "dbbd_cli.model.dbbd.pretraining.DbbdPretraining",
    "segmentation": "dbbd_cli.model.dbbd.segmentation.SceneSegmenter",
    "url_classification": "dbbd_cli.model.urls.classifier.UrlClassifier",
}
SPOILED = """
import importlib, os, signal, threading, torch
module, _, name = {network!r}.rpartition(".")
network = getattr(importlib.import_module(module), name)
original, calls = network.forward, 0

def forward(self, *batch):
    global calls
    if not (self.training and torch.is_grad_enabled()):
        return original(self, *batch)
    calls += 1
    if {watch}:
        torch.save(dict(self.state_dict()), f"{{os.getcwd()}}/before{{calls}}.pt")
    if calls == {kill_at}:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()  # the step before is saved
        os.kill(os.getpid(), signal.SIGKILL)
    output = original(self, *batch)
    if calls in {bad}:
        parameter = next(self.parameters())
        output.loss = {{
            "nan": output.loss * float("nan"),
            "inf": output.loss + float("inf"),
            "gradient": output.loss + (parameter.sum() * 0).sqrt(),  # its value is 0, and its slope infinite
        }}[{how!r}]
    return output

network.forward = forward
"""
"""Code that makes the forward passes `bad` return a loss or a gradient that is not finite."""


class Spoiled:
    """Runs the program with non-finite steps."""

    def __init__(self, task: str, forks: Forks, folder: Path) -> None:
        self.task, self.forks, self.folder = task, forks, folder

    def run(
        self,
        *arguments: str,
        bad: tuple[int, ...] = (),
        how: str = "nan",
        kill_at: int = 0,
        watch: bool = False,
    ) -> Ended:
        before = SPOILED.format(network=NETWORK[self.task], bad=bad, how=how, kill_at=kill_at, watch=watch)
        return self.forks.start(DBBD, *arguments, folder=self.folder, before=before).wait()

    def train(self, *options: str, **what: Any) -> Ended:
        return self.run("train", *EVERY_STEP[self.task], "--json", "--epochs", "1", *options, **what)

    def resume(self, *options: str, **what: Any) -> Ended:
        return self.run("resume", str(only_run(self.folder)), "--json", *options, **what)


@pytest.fixture
def spoiled(task: str, forks: Forks, tmp_path: Path) -> Spoiled:
    return Spoiled(task, forks, tmp_path)


SKIP = ("--set", "training.on_nonfinite=skip")


def train_names(run: Path) -> set[str]:
    """Return the names of the training samples as given in the manifest."""
    rows = json.loads((run / "splits.json").read_text(encoding="utf-8"))["samples"]
    return {str(value) for row in rows if row["split"] == "train" for value in row.values()}


def check_stopped(ended: Ended, run: Path, last_step: int) -> None:
    assert ended.code == 5, ended
    assert "not finite" in ended.err or "non-finite" in ended.err
    assert saved_steps(run)["ckpt.pth"] == last_step
    assert strays(run) == []
    assert not re.search(r"NaN|Infinity", (run / "history.jsonl").read_text(encoding="utf-8"))


def named_samples(ended: Ended, run: Path) -> set[str]:
    error = json.loads(ended.out)["error"]
    return {detail for detail in error["details"] if any(detail in name for name in train_names(run))}


@pytest.mark.parametrize(
    ("task", "how"),
    cases(
        [("url_classification", "gradient"), ("dbbd", "nan")],
        [(task, how) for task in TASKS for how in ("nan", "inf", "gradient")],
    ),
)
def test_a_non_finite_step_stops_the_run_before_the_update(
    task: str, how: str, spoiled: Spoiled, stored_runs: StoredRuns
) -> None:
    ended = spoiled.train(bad=(2,), how=how)
    run = only_run(spoiled.folder)
    check_stopped(ended, run, last_step=1)
    assert named_samples(ended, run)
    # The step left no trace in the state: without the fault, the run ends like one that never had it.
    again = spoiled.resume("--epochs", "1")
    assert again.code == 0, again
    assert unlike(run, stored_runs.done(task, 1)) == []


@pytest.mark.parametrize(
    ("task", "rate", "last_step"),
    cases(
        [("image_classification", "1e30", 1), ("dbbd", "1e300", 0)],
        [(task, *case) for task in TASKS for case in (("1e10", 1), ("1e30", 1), ("1e37", 1), ("1e300", 0))],
    ),
)
def test_a_far_too_high_learning_rate_is_an_error(task: str, rate: str, last_step: int, spoiled: Spoiled) -> None:
    ended = spoiled.train("--set", f"training.learning_rate={rate}", "--set", "training.warmup_epochs=0")
    run = only_run(spoiled.folder)
    check_stopped(ended, run, last_step)
    if last_step:
        assert named_samples(ended, run)


@pytest.mark.parametrize(
    ("task", "how"),
    cases(
        [("url_classification", "nan"), ("dbbd", "gradient")],
        [(task, how) for task in TASKS for how in ("nan", "inf", "gradient")],
    ),
)
def test_a_skipped_step_leaves_no_trace(task: str, how: str, spoiled: Spoiled) -> None:
    ended = spoiled.train(*SKIP, bad=(2,), how=how, watch=True)
    assert ended.code == 0, ended
    run = only_run(spoiled.folder)
    result = json.loads(ended.out)
    assert result["skipped_steps"] == 1
    assert "skipped (1 of at most 10)" in (run / "run.log").read_text(encoding="utf-8")
    saved_steps(run)
    states = [torch.load(spoiled.folder / f"before{call}.pt", weights_only=True) for call in (1, 2)]
    states.append(torch.load(run / "ckpt.pth", weights_only=True)["module"])  # the second step was the last one
    assert differences(states[0], states[1]), "the first step changed nothing, so the test proves nothing"
    assert differences(states[1], states[2]) == []
    assert not_finite(states) == []


def test_batch_statistics_are_restored_after_a_skipped_step_of_several_batches(forks: Forks, tmp_path: Path) -> None:
    spoiled = Spoiled("image_classification", forks, tmp_path)
    options = (
        "--set",
        "model.name=mobilenet_v3_small",
        "--set",
        "training.batch_size=4",
        "--set",
        "training.accumulate_batches=2",
    )
    ended = spoiled.train(*SKIP, *options, bad=(2,), watch=True)
    assert ended.code == 0, ended
    first, second, third = (torch.load(tmp_path / f"before{call}.pt", weights_only=True) for call in (1, 2, 3))
    assert any("running_mean" in where for where in differences(first, second))
    assert differences(first, third) == []


@pytest.mark.parametrize("task", cases(["dbbd"], TASKS))
def test_too_many_skipped_steps_end_the_run(task: str, spoiled: Spoiled) -> None:
    # An epoch has two steps, one of which is finite.
    ended = spoiled.train(*SKIP, "--epochs", "2", "--set", "training.max_skipped_steps=1", bad=(2, 3))
    run = only_run(spoiled.folder)
    check_stopped(ended, run, last_step=2)
    assert "skipped (1 of at most 1)" in (run / "run.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("task", cases(["dbbd"], TASKS))
def test_skipped_steps_are_counted_across_a_resume(task: str, spoiled: Spoiled) -> None:
    at_most_one = (*SKIP, "--epochs", "2", "--set", "training.max_skipped_steps=1")
    assert spoiled.train(*at_most_one, bad=(2,), kill_at=3).code == -9
    run = only_run(spoiled.folder)
    assert saved_steps(run)["ckpt.pth"] == 2
    check_stopped(spoiled.resume(bad=(1,)), run, last_step=2)
    ended = spoiled.resume()
    assert ended.code == 0, ended
    assert json.loads(ended.out)["skipped_steps"] == 1
