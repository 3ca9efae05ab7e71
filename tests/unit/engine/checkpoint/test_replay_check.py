"""The replay check accepts an unchanged run and names what changed in any other."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dbbd_cli.config.load import parse_override
from dbbd_cli.core.errors import CheckpointError, DataError
from dbbd_cli.core.progress import Silent
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.engine.checkpoint.replay_check import make_replay_check, verify_replay_check
from dbbd_cli.engine.runtime import choose_runtime, random_state
from dbbd_cli.engine.state import TrainState
from dbbd_cli.engine.workload import Workload
from dbbd_cli.model.digest import save_with_digest
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.resume import resume
from dbbd_cli.services.session import build_workload
from dbbd_cli.services.train import train

CPU = choose_runtime("cpu", "fp32")
Make = Callable[..., Any]


@pytest.fixture(params=["image_classification", "dbbd"])
def task(request: pytest.FixtureRequest, tiny_config: Make, tiny_point_config: Make) -> Workload:
    make = tiny_config if request.param == "image_classification" else tiny_point_config
    torch.manual_seed(0)
    config, manifest = prepare_run(make(), Silent())
    return build_workload(config, manifest, splits=("train", "val"), pretrained=True, progress=Silent())[0]


def test_making_a_replay_check_changes_nothing_and_it_verifies(task: Workload) -> None:
    task.module.train()
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    streams = random_state()
    replay_check = make_replay_check(task, CPU, TrainState(epoch=2, batch=1))
    assert replay_check is not None
    assert task.module.training
    assert all(torch.equal(before[name], value) for name, value in task.module.state_dict().items())
    assert torch.equal(streams["torch"], random_state()["torch"])
    assert streams["python"] == random_state()["python"]
    assert [(replay_check["epoch"], index) for index in replay_check["samples"]] == task.loaders["train"].plan(2)[1]
    assert len(replay_check["names"]) == len(replay_check["samples"])
    verify_replay_check(task, CPU, replay_check)


def test_at_the_end_of_an_epoch_the_next_batch_is_the_first_of_the_next(task: Workload) -> None:
    replay_check = make_replay_check(task, CPU, TrainState(epoch=1, batch=len(task.loaders["train"])))
    assert replay_check is not None
    assert (replay_check["epoch"], replay_check["batch"]) == (2, 0)
    verify_replay_check(task, CPU, replay_check)


def test_other_weights_are_refused(task: Workload) -> None:
    replay_check = make_replay_check(task, CPU, TrainState())
    assert replay_check is not None
    with torch.no_grad():
        for weight in task.module.parameters():
            weight.mul_(1.2)
    with pytest.raises(CheckpointError, match=r"the same run: the loss of batch 1 of epoch 1 was .* is now"):
        verify_replay_check(task, CPU, replay_check)


def test_differences_are_named(task: Workload) -> None:
    replay_check = make_replay_check(task, CPU, TrainState())
    assert replay_check is not None
    replay_check["loss"] *= 1.01
    with pytest.raises(CheckpointError):
        verify_replay_check(task, CPU, replay_check)
    other = {**replay_check, "torch": "2.0.0", "names": ["elsewhere"], "device": "cuda"}
    with pytest.raises(CheckpointError) as caught:
        verify_replay_check(task, CPU, other)
    assert "device: cuda before, cpu now" in caught.value.details
    assert f"torch: 2.0.0 before, {torch.__version__} now" in caught.value.details
    assert "samples before: elsewhere" in caught.value.details
    with pytest.raises(CheckpointError):
        verify_replay_check(task, CPU, {**replay_check, "loss": math.nan})


def test_the_loss_is_in_fp32_whatever_the_precision_of_the_run(task: Workload) -> None:
    replay_check, reduced = (
        make_replay_check(task, choose_runtime("cpu", name), TrainState()) for name in ("fp32", "bf16")
    )
    assert replay_check is not None
    assert reduced is not None
    assert replay_check["loss"] == reduced["loss"]


def test_another_order_is_refused(task: Workload) -> None:
    replay_check = make_replay_check(task, CPU, TrainState())
    assert replay_check is not None
    with pytest.raises(CheckpointError, match="would consist of other samples"):
        verify_replay_check(task, CPU, {**replay_check, "samples": replay_check["samples"][::-1]})
    with pytest.raises(CheckpointError, match="samples that are no longer in the training split"):
        verify_replay_check(task, CPU, {**replay_check, "samples": [10**6]})


@pytest.mark.parametrize("change", [{"loss": "1"}, {"samples": [1.5]}, {"epoch": -1}, {"epoch": 2**40}, {"device": 3}])
def test_an_invalid_replay_check_is_refused(change: dict[str, Any], tiny_config: Make) -> None:
    config, manifest = prepare_run(tiny_config(), Silent())
    task, _ = build_workload(config, manifest, splits=("train", "val"), pretrained=True, progress=Silent())
    replay_check = make_replay_check(task, CPU, TrainState())
    assert replay_check is not None
    with pytest.raises(CheckpointError, match="the replay check in the checkpoint is invalid"):
        verify_replay_check(task, CPU, {**replay_check, **change})


def test_a_batch_that_cannot_be_loaded_does_not_prevent_saving(task: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_keys: object) -> None:
        raise DataError("gone")

    monkeypatch.setattr(task.loaders["train"], "make", fail)
    assert make_replay_check(task, CPU, TrainState()) is None


class TestResume:
    def change_weights(self, run: Path) -> None:
        """Change the weights, but not the replay check."""
        state = load_checkpoint(run / "ckpt.pth")
        for value in state["module"].values():
            if value.is_floating_point() and value.ndim > 1:
                value.mul_(1.2)
        self.rewrite(run, state)

    def rewrite(self, run: Path, state: dict[str, Any]) -> None:
        """Replace a checkpoint by another state, with its digest."""
        (run / "ckpt.pth").unlink()
        save_with_digest(state, run / "ckpt.pth")

    @pytest.mark.parametrize("replay_check", [1e308, "y" * 30, [], {"loss": 1.0}])
    def test_an_invalid_replay_check_stops_it_and_force_continues(
        self, replay_check: object, tiny_config: Make
    ) -> None:
        run = train(tiny_config(training__epochs=1)).run
        self.rewrite(run, {**load_checkpoint(run / "ckpt.pth"), "proof": replay_check})
        more = [parse_override("training.epochs=2")]
        with pytest.raises(CheckpointError, match="the replay check in the checkpoint is invalid"):
            resume(run, overrides=more)
        assert resume(run, overrides=more, force=True).epochs == 2

    def test_another_loss_stops_it_unless_forced(self, tiny_config: Make) -> None:
        run = train(tiny_config(training__epochs=1)).run
        self.change_weights(run)
        before = sorted((path.name, path.stat().st_size) for path in run.iterdir())
        more = [parse_override("training.epochs=2")]
        with pytest.raises(CheckpointError, match="not continue the same run") as caught:
            resume(run, overrides=more)
        assert "--force" in caught.value.hint
        assert sorted((path.name, path.stat().st_size) for path in run.iterdir()) == before
        assert resume(run, overrides=more, force=True).epochs == 2

    def test_a_changed_setting_skips_the_check(self, tiny_config: Make) -> None:
        run = train(tiny_config(training__epochs=1)).run
        self.change_weights(run)
        changes = [parse_override("training.epochs=2"), parse_override("data.augment.brightness=0.5")]
        assert resume(run, overrides=changes).epochs == 2

    def test_other_splits_are_refused(self, tiny_config: Make, picture_folder: Callable[..., Path]) -> None:
        root = picture_folder(("cat", "dog"), count=20)  # for synthetic data, the list would be generated again
        run = train(tiny_config(training__epochs=1, data__source="folder", data__path=str(root))).run
        text = (run / "splits.json").read_text(encoding="utf-8")
        (run / "splits.json").write_text(text.replace('"test"', '"train"'), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"is not the one that ckpt\.pth was made with"):
            resume(run)
