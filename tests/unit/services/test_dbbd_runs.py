"""DBBD keeps the promises of every run; the rest of the services is the same for all tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import CheckpointError, ConfigError, DataError
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.checkpoint.files import load_checkpoint, save_checkpoint
from dbbd_cli.services.resume import resume
from dbbd_cli.services.smoke import same
from dbbd_cli.services.train import train
from dbbd_cli.services.validate import validate
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from unit.services.shown_runs import Shown, assert_same_run, epochs

Make = Callable[..., DbbdConfig]
SCHEDULES = [
    (0, {"training.scheduler": "none", "training.warmup_epochs": 1.0}),
    # So fast that the loss does not fall: the rate must, which takes the memory of the epochs before the resume.
    (2, {"training.scheduler": "reduce_on_plateau", "training.scheduler_patience": 0, "training.learning_rate": 0.03}),
    (0, {"training.scheduler": "cosine", "training.scheduler_epochs": 4}),
    (2, {"training.scheduler": "cosine", "training.scheduler_epochs": 4}),
]


@pytest.mark.parametrize(("workers", "schedule"), SCHEDULES, ids=lambda value: str(value)[:40])
def test_two_epochs_extended_to_four_equal_four_uninterrupted_ones(
    tiny_point_config: Make, workers: int, schedule: dict[str, object]
) -> None:
    settings = {"data.num_workers": workers, **schedule}
    whole = train(tiny_point_config(**settings, **{"training.epochs": 4}))
    half = train(tiny_point_config(**settings, **{"training.epochs": 2}))
    shown = Shown()
    resumed = resume(half.run, overrides=epochs(4), progress=shown)
    assert resumed.epochs == 4
    assert_same_run(whole.run, half.run)
    assert not any("cosine" in line for line in shown.lines)
    rates = [row["learning_rate"] for row in load_checkpoint(whole.checkpoint)["state"]["history"]]
    assert (rates[3] < rates[2]) == (schedule["training.scheduler"] != "none")


def test_extending_a_run_with_a_cosine_of_its_length_is_reported(tiny_point_config: Make) -> None:
    whole = train(tiny_point_config(training__epochs=4))
    half = train(tiny_point_config(training__epochs=2))
    shown = Shown()
    resume(half.run, overrides=epochs(4), progress=shown)
    (line,) = [line for line in shown.lines if "cosine" in line]
    assert "training.scheduler_epochs" in line
    weights = [load_checkpoint(run / "ckpt.pth")["module"] for run in (whole.run, half.run)]
    assert not same(weights[0], weights[1], exact=True)


def test_a_run_of_an_earlier_version_whose_points_were_chosen_otherwise_is_continued_with_force(
    tiny_point_config: Make,
) -> None:
    run = train(tiny_point_config(**{"training.epochs": 1})).run

    def altered(loss: float, *, earlier: bool) -> None:
        checkpoint = {key: value for key, value in load_checkpoint(run / "ckpt.pth").items() if key != "format"}
        checkpoint["proof"]["loss"] += loss
        if earlier:
            checkpoint["runtime"].pop("batch_size")
        save_checkpoint(checkpoint, run, best=False, keep=1)

    altered(0.1, earlier=False)
    with pytest.raises(CheckpointError) as caught:
        resume(run, overrides=epochs(2))
    assert "earlier ones" not in str(caught.value.details)
    altered(0.0, earlier=True)
    with pytest.raises(CheckpointError, match="resuming would not continue the same run") as caught:
        resume(run, overrides=epochs(2))
    assert "as many points from each scene of a batch, and earlier ones took more" in caught.value.details[-1]
    assert caught.value.hint == "if nothing else has changed, continue with --force"
    assert resume(run, overrides=epochs(2), force=True).epochs == 2


def test_workers_change_nothing(tiny_point_config: Make) -> None:
    runs = [train(tiny_point_config(data__num_workers=workers)).run for workers in (0, 2)]
    assert_same_run(*runs)


def test_gradient_checkpointing_changes_no_bit(tiny_point_config: Make) -> None:
    runs = [train(tiny_point_config(model__gradient_checkpointing=value)).run for value in (False, True)]
    assert_same_run(*runs)


@pytest.mark.parametrize("key", ["model.aggregation=attention", "model.aggregation=mean", "model.pooling=mean"])
def test_every_kind_of_network_trains_and_resumes(tiny_point_config: Make, key: str) -> None:
    name, _, value = key.partition("=")
    settings = {name: value, "training.scheduler": "none"}
    whole = train(tiny_point_config(**settings))
    half = train(tiny_point_config(**settings, **{"training.epochs": 1}))
    resume(half.run, overrides=epochs(2))
    assert_same_run(whole.run, half.run)


def test_the_result_and_the_run_folder_are_complete(tiny_point_config: Make) -> None:
    result = train(tiny_point_config(run__plots=True))
    facts = result.facts
    assert facts.task == "dbbd"
    assert facts.sample_unit == "scenes"
    assert facts.samples == {"train": 6, "val": 1, "test": 1}
    assert facts.batches == {"train": 3, "val": 1, "test": 1}
    assert facts.synthetic
    names = {path.name for path in result.run.iterdir()}
    assert {"config.yaml", "splits.json", "SYNTHETIC_DATA.txt", "best_model.pth", "training_history.png"} <= names
    assert load_config(str(result.run / "config.yaml")) == tiny_point_config(run__plots=True)
    rows = [json.loads(line) for line in (result.run / "history.jsonl").read_text().splitlines()]
    for split in ("train", "val"):
        metrics = next(row for row in rows if row["kind"] == "epoch")[split]
        assert {"loss", "region_loss", "point_loss", "loss_level_1", "loss_level_2", "chance_level_2"} <= metrics.keys()
    manifest = Manifest.load(result.run / "splits.json")
    assert (manifest.source, manifest.counts()) == ("rooms", facts.samples)


def test_validate_returns_what_training_logged(tiny_point_config: Make) -> None:
    run = train(tiny_point_config(training__epochs=3)).run
    for name in ("best_model.pth", "ckpt.pth", "ckpt.previous.pth"):
        history = load_checkpoint(run / name)["state"]["history"]
        result = validate(run / name)
        assert result.metrics == history[-1]["val"]  # to the last bit
        assert result.logged == history[-1]["val"]
        assert result.num_samples == 1
    best = min(row["val"]["loss"] for row in load_checkpoint(run / "ckpt.pth")["state"]["history"])
    assert validate(run).metrics["loss"] == best


def test_a_run_continues_with_its_own_scenes_after_others_were_added(
    tiny_point_config: Make, scene_folder: Callable[..., Path]
) -> None:
    root = scene_folder()
    run = train(tiny_point_config(data__path=str(root), training__scheduler="none")).run
    before = validate(run).metrics
    (root / "val" / "scene0000_00b.pkl").write_bytes((root / "train" / "scene0000_00.pkl").read_bytes())
    (root / "train" / "aaa.pkl").write_bytes(b"no scene")
    assert validate(run).metrics == before
    assert resume(run, overrides=epochs(3)).facts.samples == {"train": 4, "val": 2, "test": 1}


def test_the_new_path_of_a_moved_folder_can_be_given(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = scene_folder({"train": 2, "val": 1})
    run = train(tiny_point_config(data__path=str(root), data__cache_dir=str(tmp_path / "cache"))).run
    expected = validate(run).metrics
    moved = root.rename(tmp_path / "moved")
    assert validate(run).metrics == expected  # from the cache
    elsewhere = Override("data.cache_dir", str(tmp_path / "other"), "--set")
    with pytest.raises(DataError, match="cannot be opened") as caught:
        validate(run, overrides=[elsewhere])
    assert "data.path=DIR" in caught.value.hint
    assert validate(run, overrides=[elsewhere, Override("data.path", str(moved), "--set")]).metrics == expected


def test_a_source_without_a_path_is_refused_and_nothing_is_created(tiny_point_config: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path is not set") as caught:
        train(tiny_point_config(data__path=None))
    assert "data.source=synthetic" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_skipped_scenes_are_counted_and_listed(tiny_point_config: Make, scene_folder: Callable[..., Path]) -> None:
    root = scene_folder({"train": 3, "val": 1})
    (root / "train" / "scene0001_00.pkl").write_bytes(b"")
    config = tiny_point_config(data__path=str(root), data__on_error="skip", training__epochs=1)
    result = train(config)
    assert result.facts.skipped == 1
    assert result.facts.samples == {"train": 2, "val": 1, "test": 0}
    (skipped,) = Manifest.load(result.run / "splits.json").skipped
    assert "scene0001_00.pkl: is an empty file" in skipped


def test_a_top1_accuracy_can_decide(tiny_point_config: Make) -> None:
    result = train(tiny_point_config(checkpoint__metric="region_top1"))
    history = load_checkpoint(result.checkpoint)["state"]["history"]
    values = [row["val"]["region_top1"] for row in history]
    levels = [value for name, value in history[0]["val"].items() if name.startswith("top1_level_")]
    assert values[0] == pytest.approx(sum(levels) / len(levels))
    assert result.best_values["region_top1"].value == result.best["region_top1"] == max(values)
