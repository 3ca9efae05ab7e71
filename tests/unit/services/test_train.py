"""A new run trains on its data with its settings, and its folder and result are complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from dbbd_cli.core.errors import ConfigError, DataError
from dbbd_cli.core.progress import Phase, Silent
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.services.resume import resume
from dbbd_cli.services.smoke import same
from dbbd_cli.services.train import train
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig
from unit.services.shown_runs import epochs

Make = Callable[..., ImageClassificationConfig]


def test_the_result_and_the_run_folder_are_complete(tiny_config: Make) -> None:
    result = train(tiny_config(run__plots=True), command=["dbbd", "train"])
    assert result.facts.samples == {"train": 28, "val": 6, "test": 6}
    assert result.facts.batches == {"train": 4, "val": 1, "test": 1}
    assert result.facts.synthetic
    names = {path.name for path in result.run.iterdir()}
    expected = (
        "config.yaml environment.json splits.json history.jsonl run.log ckpt.pth ckpt.previous.pth best_model.pth "
        "SYNTHETIC_DATA.txt"
    )
    assert {*expected.split(), "training_history.png"} <= names
    assert load_config(str(result.run / "config.yaml")) == tiny_config(run__plots=True)
    assert yaml.safe_load((result.run / "config.yaml").read_text())["training"]["early_stopping_patience"] is None
    environment = json.loads((result.run / "environment.json").read_text())
    assert environment["command"] == ["dbbd", "train"]
    assert environment["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "resumed" not in environment
    resume(result.run, command=["dbbd", "resume"])
    environment = json.loads((result.run / "environment.json").read_text())
    assert environment["command"] == ["dbbd", "train"]
    assert [entry["command"] for entry in environment["resumed"]] == [["dbbd", "resume"]]
    assert len(Manifest.load(result.run / "splits.json").samples) == 40
    assert result.best == load_checkpoint(result.checkpoint)["state"]["history"][result.best_epoch - 1]["val"]


def test_the_result_has_the_best_values_of_any_epoch(tiny_config: Make) -> None:
    result = train(tiny_config(training__epochs=3, checkpoint__metric="f1"))
    vals = {row["epoch"]: row["val"] for row in load_checkpoint(result.checkpoint)["state"]["history"]}
    assert (result.metric, set(result.best)) == ("f1", {"loss", "accuracy", "f1"})
    assert result.best == vals[result.best_epoch]
    assert result.best["f1"] == result.best_values["f1"].value == max(val["f1"] for val in vals.values())
    for name, best in (("loss", min), ("accuracy", max)):
        found = result.best_values[name]
        assert found.value == vals[found.epoch][name] == best(val[name] for val in vals.values())


def test_a_new_run_never_writes_into_an_old_folder(tiny_config: Make) -> None:
    config = tiny_config(training__epochs=1)
    assert len({train(config).run for _ in range(3)}) == 3


def test_a_batch_of_one_image_and_a_batch_too_large_are_explained(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="a batch of one sample"):
        train(tiny_config(model__name="resnet18", training__batch_size=27))

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr("dbbd_cli.model.images.classifier.Classifier.forward", full)
    with pytest.raises(ConfigError, match="out of memory") as caught:
        train(tiny_config())
    assert "batch_size" in caught.value.hint


def test_a_cache_may_be_removed_while_a_run_trains(tiny_config: Make) -> None:
    class Removes(Silent):
        @contextmanager
        def phase(
            self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
        ) -> Iterator[Phase]:
            if title.endswith("train"):
                for file in cache_folder(None).glob("*.u8"):
                    file.unlink()
            with super().phase(title, total) as phase:
                yield phase

    assert train(tiny_config(seed=11), progress=Removes()).epochs == 2


def test_settings_of_model_and_training_have_an_effect(tiny_config: Make) -> None:
    """Each of these keys was once read by nobody."""
    base = train(tiny_config()).run
    changes = {
        "training.label_smoothing": 0.2,
        "training.warmup_epochs": 1.0,
        "training.optimizer": "sgd",
        "training.clip_grad_norm": 0.001,
        "training.weight_decay": 0.9,
        "training.scheduler": "cosine",
        "training.accumulate_batches": 2,
        "training.batch_size": 5,
        "model.dropout": 0.1,
        "data.augment.rotation_degrees": 0.0,
        "data.augment.brightness": 0.0,
        "data.augment.contrast": 0.0,
        "seed": 7,
    }
    weights = load_checkpoint(base / "ckpt.pth")["module"]
    for key, value in changes.items():
        other = train(tiny_config(**{key: value})).run
        assert not same(weights, load_checkpoint(other / "ckpt.pth")["module"], exact=True), key


def test_pictures_of_three_classes_train(tiny_config: Make, picture_folder: Callable[..., Path]) -> None:
    root = picture_folder()
    result = train(tiny_config(data__source="folder", data__path=str(root), data__sample_per_class=None))
    assert result.facts.samples == {"train": 18, "val": 3, "test": 3}
    assert not result.facts.synthetic
    assert "cat, dog, owl" in result.facts.data


def test_a_folder_for_each_class_trains(tiny_config: Make, picture_folder: Callable[..., Path]) -> None:
    root = picture_folder()
    classes = {"good": str(root / "owl"), "bad": str(root / "cat")}
    result = train(tiny_config(data__source="classes", data__classes=classes))
    assert Manifest.load(result.run / "splits.json").classes == ("good", "bad")
    assert resume(result.run, overrides=epochs(3)).epochs == 3


def test_bad_data_creates_no_run_folder(tiny_config: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(tiny_config(data__source="folder", data__path=str(tmp_path / "nowhere")))
    assert not (tmp_path / "runs").exists()
