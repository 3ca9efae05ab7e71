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


def test_proving_changes_nothing_and_holds(task: Workload) -> None:
    task.module.train()
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    streams = random_state()
    proof = make_replay_check(task, CPU, TrainState(epoch=2, batch=1))
    assert proof is not None
    assert task.module.training
    assert all(torch.equal(before[name], value) for name, value in task.module.state_dict().items())
    assert torch.equal(streams["torch"], random_state()["torch"])
    assert streams["python"] == random_state()["python"]
    assert [(proof["epoch"], index) for index in proof["samples"]] == task.loaders["train"].plan(2)[1]
    assert len(proof["names"]) == len(proof["samples"])
    verify_replay_check(task, CPU, proof)


def test_at_the_end_of_an_epoch_the_next_batch_is_the_first_of_the_next(task: Workload) -> None:
    proof = make_replay_check(task, CPU, TrainState(epoch=1, batch=len(task.loaders["train"])))
    assert proof is not None
    assert (proof["epoch"], proof["batch"]) == (2, 0)
    verify_replay_check(task, CPU, proof)


def test_other_weights_are_refused(task: Workload) -> None:
    proof = make_replay_check(task, CPU, TrainState())
    assert proof is not None
    with torch.no_grad():
        for weight in task.module.parameters():
            weight.mul_(1.2)
    with pytest.raises(CheckpointError, match=r"not be the same run: the loss of batch 1 of epoch 1 was .* is .* now"):
        verify_replay_check(task, CPU, proof)


def test_what_differs_is_named(task: Workload) -> None:
    proof = make_replay_check(task, CPU, TrainState())
    assert proof is not None
    proof["loss"] *= 1.01
    with pytest.raises(CheckpointError):
        verify_replay_check(task, CPU, proof)
    other = {**proof, "torch": "2.0.0", "names": ["elsewhere"], "device": "cuda"}
    with pytest.raises(CheckpointError) as caught:
        verify_replay_check(task, CPU, other)
    assert "device: cuda then, cpu now" in caught.value.details
    assert f"torch: 2.0.0 then, {torch.__version__} now" in caught.value.details
    assert "then they were: elsewhere" in caught.value.details
    with pytest.raises(CheckpointError):
        verify_replay_check(task, CPU, {**proof, "loss": math.nan})


def test_a_proof_is_in_full_precision_whatever_the_run_trains_in(task: Workload) -> None:
    proof, reduced = (make_replay_check(task, choose_runtime("cpu", name), TrainState()) for name in ("fp32", "bf16"))
    assert proof is not None
    assert reduced is not None
    assert proof["loss"] == reduced["loss"]


def test_another_order_is_refused(task: Workload) -> None:
    proof = make_replay_check(task, CPU, TrainState())
    assert proof is not None
    with pytest.raises(CheckpointError, match="would consist of other samples"):
        verify_replay_check(task, CPU, {**proof, "samples": proof["samples"][::-1]})
    with pytest.raises(CheckpointError, match="samples that the training split does not have"):
        verify_replay_check(task, CPU, {**proof, "samples": [10**6]})


@pytest.mark.parametrize(
    "change", [{"loss": "1"}, {"samples": [1.5]}, {"epoch": -1}, {"epoch": 2**40}, {"device": 3}, {"precision": 16}]
)
def test_a_proof_of_another_form_is_refused(change: dict[str, Any], tiny_config: Make) -> None:
    config, manifest = prepare_run(tiny_config(), Silent())
    task, _ = build_workload(config, manifest, splits=("train", "val"), pretrained=True, progress=Silent())
    proof = make_replay_check(task, CPU, TrainState())
    assert proof is not None
    with pytest.raises(CheckpointError, match="the proof in the checkpoint is not what it should be"):
        verify_replay_check(task, CPU, {**proof, **change})


def test_a_batch_that_cannot_be_made_does_not_keep_from_saving(task: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_keys: object) -> None:
        raise DataError("gone")

    monkeypatch.setattr(task.loaders["train"], "make", fail)
    assert make_replay_check(task, CPU, TrainState()) is None


class TestResume:
    def spoiled(self, run: Path) -> None:
        """Changes the weights behind the proof's back."""
        state = load_checkpoint(run / "ckpt.pth")
        for value in state["module"].values():
            if value.is_floating_point() and value.ndim > 1:
                value.mul_(1.2)
        self.rewritten(run, state)

    def rewritten(self, run: Path, state: dict[str, Any]) -> None:
        """Puts a state in the place of a checkpoint, digest and all."""
        (run / "ckpt.pth").unlink()
        save_with_digest(state, run / "ckpt.pth")

    @pytest.mark.parametrize("proof", [1e308, "y" * 30, [], {"loss": 1.0}])
    def test_what_is_no_proof_stops_it_and_force_goes_on(self, proof: object, tiny_config: Make) -> None:
        run = train(tiny_config(training__epochs=1)).run
        self.rewritten(run, {**load_checkpoint(run / "ckpt.pth"), "proof": proof})
        more = [parse_override("training.epochs=2")]
        with pytest.raises(CheckpointError, match="the proof in the checkpoint is not what it should be"):
            resume(run, overrides=more)
        assert resume(run, overrides=more, force=True).epochs == 2

    def test_another_loss_stops_it_and_force_goes_on(self, tiny_config: Make) -> None:
        run = train(tiny_config(training__epochs=1)).run
        self.spoiled(run)
        before = sorted((path.name, path.stat().st_size) for path in run.iterdir())
        more = [parse_override("training.epochs=2")]
        with pytest.raises(CheckpointError, match="not be the same run") as caught:
            resume(run, overrides=more)
        assert "--force" in caught.value.hint
        assert sorted((path.name, path.stat().st_size) for path in run.iterdir()) == before
        assert resume(run, overrides=more, force=True).epochs == 2

    def test_a_change_that_was_asked_for_is_no_mistake(self, tiny_config: Make) -> None:
        run = train(tiny_config(training__epochs=1)).run
        self.spoiled(run)
        changes = [parse_override("training.epochs=2"), parse_override("data.augment.brightness=0.5")]
        assert resume(run, overrides=changes).epochs == 2

    def test_other_splits_are_refused(self, tiny_config: Make, picture_folder: Callable[..., Path]) -> None:
        root = picture_folder(("cat", "dog"), count=20)  # a list of synthetic data would be made anew
        run = train(tiny_config(training__epochs=1, data__source="folder", data__path=str(root))).run
        text = (run / "splits.json").read_text(encoding="utf-8")
        (run / "splits.json").write_text(text.replace('"test"', '"train"'), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"is not the one that ckpt\.pth was made with"):
            resume(run)
