"""`evaluate` and `validate` measure exactly the split of the run, write complete reports, and reject damaged input."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import CheckpointError, ConfigError, DataError, DiskError
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.model.digest import save_with_digest
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.plot import plot
from dbbd_cli.services.resume import resume
from dbbd_cli.services.train import train
from dbbd_cli.services.validate import validate
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig
from dbbd_cli.tasks.image_classification.task import ImageClassification
from unit.services.shown_runs import Shown

Make = Callable[..., ImageClassificationConfig]


def test_validate_reproduces_the_logged_metrics(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=3)).run
    for name in ("best_model.pth", "ckpt.pth", "ckpt.previous.pth"):
        history = load_checkpoint(run / name)["state"]["history"]
        result = validate(run / name)
        assert result.metrics == pytest.approx(history[-1]["val"], abs=1e-6)
        assert result.logged == history[-1]["val"]
        assert result.epoch == len(history)
    best = min(row["val"]["loss"] for row in load_checkpoint(run / "ckpt.pth")["state"]["history"])
    assert validate(run).metrics["loss"] == pytest.approx(best, abs=1e-6)
    assert validate(run).metrics == validate(run).metrics


def test_validate_warns_if_the_loss_differs_from_the_logged_one(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1, run__precision="fp32")).run
    told = Shown()
    validate(run, progress=told)
    assert told.warnings == []
    checkpoint = load_checkpoint(run / "best_model.pth")
    checkpoint["state"]["history"][-1]["val"]["loss"] *= 1.01
    (run / "best_model.pth").unlink()
    save_with_digest(checkpoint, run / "best_model.pth")
    assert validate(run, progress=told).logged is not None
    [warning] = told.warnings
    assert "is more than rounding explains. Settings, device and precision are the same" in warning


def test_validate_names_the_likely_reason_for_a_different_loss(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1, run__precision="fp32")).run
    checkpoint = load_checkpoint(run / "ckpt.pth")
    logged = checkpoint["state"]["history"][-1]["val"]
    loss = logged["loss"]
    bf16 = [Override("run.precision", "bf16", "--set")]

    def warnings(factor: float, overrides: list[Override]) -> list[str]:
        logged["loss"] = loss * factor
        (run / "ckpt.pth").unlink()
        save_with_digest(checkpoint, run / "ckpt.pth")
        told = Shown()
        validate(run / "ckpt.pth", overrides=overrides, progress=told)
        return [text for text in told.warnings if not text.startswith("bf16 is slow here")]  # as on most processors

    assert warnings(1.001, []) != []
    assert warnings(1.001, bf16) == []  # rounding in bf16 explains as much
    [warning] = warnings(2.0, [*bf16, Override("data.num_workers", 0, "--set")])
    assert warning.endswith("Likely reason: the precision was fp32 then and is bf16 now.")
    [warning] = warnings(2.0, [Override("training.batch_size", 2, "--set")])
    assert warning.endswith("Likely reason: training.batch_size was 8 then and is 2 now.")


def folder_run(tiny_config: Make, root: Path) -> Path:
    return train(tiny_config(data__source="folder", data__path=str(root), training__epochs=1)).run


def test_a_figure_that_cannot_be_drawn_stops_neither_training_nor_evaluation(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("no axes")

    monkeypatch.setattr("dbbd_cli.services.plot.training_history", fails)
    monkeypatch.setattr("dbbd_cli.report.classification.figures.confusion_matrix", fails)
    lines = Shown()
    trained = train(tiny_config(training__epochs=1, run__plots=True), progress=lines)
    assert trained.plots == []
    assert lines.warnings == ["training_history.png could not be drawn: ValueError: no axes"]
    lines = Shown()
    found = evaluate(trained.run, progress=lines)
    assert lines.warnings == ["confusion_matrix.png could not be drawn: ValueError: no axes"]
    assert {"evaluation.json", "predictions.csv", "roc.png"} <= {path.name for path in found.files}
    (trained.run / "reliability-val.png").mkdir()  # a figure that cannot be written
    lines = Shown()
    evaluate(trained.run, split="val", progress=lines)
    assert [text.split(":")[0] for text in lines.warnings] == [
        "confusion_matrix-val.png could not be drawn",
        "reliability-val.png could not be drawn",
    ]


def test_figures_of_an_earlier_evaluation_of_the_split_are_removed(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    evaluate(run, split="val")
    drawn = {path.name for path in evaluate(run).files if path.suffix == ".png"}
    assert drawn == {path.name for path in run.glob("*.png") if "-val" not in path.name}
    (run / "notes.png").touch()
    evaluate(run, plots=False)
    left = {path.name for path in run.glob("*.png")}
    assert left == {"notes.png", *(name.replace(".png", "-val.png") for name in drawn)}


def test_a_list_of_other_synthetic_samples_is_rejected(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    (run / "splits.json").unlink()
    save_with_digest({**load_checkpoint(run / "ckpt.pth"), "splits": "0" * 64}, run / "other.pth")
    with pytest.raises(CheckpointError, match=r"splits\.json is missing"):
        validate(run / "other.pth")


def test_an_unwritable_folder_is_reported_before_anything_is_computed(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tiny_config(training__epochs=1)).run
    (tmp_path / "file").touch()
    monkeypatch.setattr("dbbd_cli.services.evaluate.build_workload", lambda *_, **__: pytest.fail("it computes"))
    monkeypatch.setattr("dbbd_cli.services.plot.training_history", lambda *_, **__: pytest.fail("it draws"))
    for command in (evaluate, lambda run, out: plot([run], out=out)):
        with pytest.raises(DiskError, match="can be written to") as caught:
            command(run, out=tmp_path / "file" / "out")
        assert caught.value.hint == "choose another folder with --out DIR"


@pytest.mark.skipif(os.name != "posix", reason="hard links")
def test_a_copy_of_hard_links_does_not_change_the_original(tiny_config: Make, tmp_path: Path) -> None:
    run = train(tiny_config(training__epochs=1)).run
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, copy_function=os.link)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    resume(copy, overrides=[Override("training.epochs", 2, "--epochs")])
    evaluate(copy)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert (copy / "run.log").read_bytes().startswith(before["run.log"])


def predicted_paths(run: Path, name: str = "predictions.csv") -> list[str]:
    with (run / name).open(encoding="utf-8", newline="") as file:
        return [row["path"] for row in csv.DictReader(file)]


def test_evaluate_covers_exactly_the_test_images_of_the_manifest_even_if_files_were_added(
    tiny_config: Make, picture_folder: Callable[..., Path]
) -> None:
    root = picture_folder(("cat", "dog"), count=20)
    run = folder_run(tiny_config, root)
    first = evaluate(run, plots=False).report
    for index in range(10):
        Image.new("RGB", (9, 9), (1, 2, index)).save(root / "cat" / f"0{index}new.png")
    second = evaluate(run, plots=False).report
    expected = [sample.key for sample in Manifest.load(run / "splits.json").of("test")]
    assert second["num_samples"] == first["num_samples"] == len(expected) == 6
    assert predicted_paths(run) == expected
    assert {k: second[k] for k in ("loss", "confusion_matrix")} == {k: first[k] for k in ("loss", "confusion_matrix")}


def test_predictions_are_in_the_order_of_the_manifest(tiny_config: Make, picture_folder: Callable[..., Path]) -> None:
    run = folder_run(tiny_config, picture_folder(("cat", "dog"), count=20))
    test_report = evaluate(run, plots=False).report
    report = evaluate(run, split="train", plots=False).report
    assert json.loads((run / "evaluation.json").read_text()) == test_report  # not replaced by another split's
    assert predicted_paths(run, "predictions-train.csv") == [
        sample.key for sample in Manifest.load(run / "splits.json").of("train")
    ]
    with (run / "predictions-train.csv").open(encoding="utf-8", newline="") as file:
        right = sum(row["class"] == row["predicted"] for row in csv.DictReader(file))
    assert right / 28 == pytest.approx(report["accuracy"])


def test_missing_or_changed_files_are_named_and_not_replaced(
    tiny_config: Make, picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = picture_folder(("cat", "dog"), count=20)
    run = folder_run(tiny_config, root)
    elsewhere = [Override("data.cache_dir", str(tmp_path / "other cache"), "--set")]
    moved = root.rename(tmp_path / "moved")
    with pytest.raises(DataError) as caught:
        evaluate(run, overrides=elsewhere)
    assert "data.path=PATH" in caught.value.hint
    found = evaluate(run, overrides=[*elsewhere, Override("data.path", str(moved), "--set")], plots=False)
    assert found.report["num_samples"] == 6
    shutil.rmtree(tmp_path / "other cache")
    victim = Manifest.load(run / "splits.json").of("test")[0].key
    Image.new("RGB", (9, 9), (250, 0, 250)).save(moved / victim)
    with pytest.raises(DataError) as caught:
        evaluate(run, overrides=[*elsewhere, Override("data.path", str(moved), "--set")])
    assert len(caught.value.details) == 1
    assert victim.split("/")[1] in caught.value.details[0]


def test_evaluation_is_complete_and_strict_json(tiny_config: Make, tmp_path: Path) -> None:
    run = train(tiny_config(training__epochs=1)).run
    result = evaluate(run, out=tmp_path / "out")
    names = sorted(path.name for path in result.files)
    figures = [
        "baselines.png",
        "confusion_matrix.png",
        "errors.png",
        "precision_recall.png",
        "reliability.png",
        "roc.png",
    ]
    assert names == sorted(["calibration.json", "errors.npy", "evaluation.json", "predictions.csv", *figures])
    assert all(path.parent == tmp_path / "out" and path.stat().st_size > 0 for path in result.files)
    text = (tmp_path / "out" / "evaluation.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert report == result.report
    assert report["synthetic"] is True
    assert report["positive_class"] == "malicious"
    efficiency = report["efficiency"]
    assert efficiency["multiply_adds"] == 3 * 32 * 9 * 32**2 + 32 * 64 * 9 * 16**2 + 64 * 128 * 9 * 8**2 + (
        2048 * 512 + 512 * 128 + 128 * 2
    )
    for kind in ("ms_per_batch", "ms_per_sample"):
        spread = efficiency[kind]
        assert 0 < spread["p10"] <= spread["median"] <= spread["p90"]
    assert validate(run).metrics["loss"] != report["loss"]


def test_pretrained_weights_are_not_downloaded_for_a_finished_checkpoint(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(model__name="resnet18", training__epochs=1, data__sample_per_class=6)
    run = train(config).run
    checkpoint = load_checkpoint(run / "best_model.pth")
    checkpoint["config"]["model"]["weights"] = "default"
    save_with_digest(checkpoint, run / "other.pth")
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_a, **_k: pytest.fail("weights were downloaded")
    )
    evaluate(run / "other.pth", plots=False)


def test_a_task_that_evaluates_in_one_process_refuses_several(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tiny_config(training__epochs=1)).run
    monkeypatch.setattr(ImageClassification, "shares_evaluation", False)
    assert evaluate(run, plots=False).report["loss"]
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="image_classification is evaluated in one process, and 2 were") as caught:
        evaluate(run, plots=False)
    assert caught.value.all_have_it  # the first process reports it


def test_wrong_arguments_are_rejected(tiny_config: Make, tmp_path: Path) -> None:
    run = train(tiny_config(training__epochs=1)).run
    with pytest.raises(ConfigError, match="is not a split"):
        evaluate(run, split="holdout")
    with pytest.raises(ConfigError, match="cannot change"):
        validate(run, overrides=[Override("data.image_size", 64, "--set")])
    with pytest.raises(CheckpointError, match="does not exist"):
        validate(run / "missing.pth")


def test_plot_draws_a_run_and_several(tiny_config: Make, tmp_path: Path) -> None:
    runs = [train(tiny_config(training__epochs=1, run__name=name)).run for name in ("one", "two")]
    (single,) = plot([runs[0] / "ckpt.pth"]).files
    assert single == runs[0] / "training_history.png"
    assert single.read_bytes().startswith(b"\x89PNG")
    (both,) = plot(runs, out=tmp_path / "figures", format="svg").files
    assert both.parent == tmp_path / "figures"


@pytest.mark.parametrize("use", [validate, evaluate])
def test_non_finite_weights_are_rejected(use: Callable[[Path], object], tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    state = load_checkpoint(run / "best_model.pth")
    name, weights = next((key, value) for key, value in state["module"].items() if value.is_floating_point())
    weights[(0,) * weights.ndim] = float("nan")
    save_with_digest(state, run / "spoiled.pth")
    with pytest.raises(CheckpointError, match=f"spoiled.pth: {name} has non-finite values"):
        use(run / "spoiled.pth")


@pytest.mark.parametrize("damage", ["missing", "not JSON", "another one"])
@pytest.mark.parametrize("task", ["image_classification", "dbbd"])
def test_a_lost_list_of_synthetic_samples_is_rebuilt(
    task: str, damage: str, tiny_config: Make, tiny_point_config: Callable[..., Any]
) -> None:
    run = train((tiny_config if task == "image_classification" else tiny_point_config)(training__epochs=1)).run
    path, before = run / "splits.json", (run / "splits.json").read_text()
    changed = {"missing": "", "not JSON": before[:-9], "another one": before.replace('"sha256": "', '"sha256": "0', 1)}
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(changed[damage])
    what = {"missing": "is missing", "not JSON": "is damaged", "another one": "does not match the run"}[damage]
    lines = Shown()
    resume(run, progress=lines)
    assert lines.warnings == [f"{path} {what}. It was rebuilt from the settings and matches the checkpoint."]
    assert path.read_text() == before
    path.unlink()
    assert validate(run / "best_model.pth").logged is not None
    assert evaluate(run / "best_model.pth", plots=False).report["split"] == "test"


def test_a_lost_list_of_own_samples_is_not_rebuilt(tiny_config: Make, picture_folder: Callable[..., Path]) -> None:
    run = folder_run(tiny_config, picture_folder(("cat", "dog"), count=20))
    (run / "splits.json").unlink()
    for command in (validate, evaluate, resume):
        with pytest.raises(CheckpointError, match=r"splits\.json is missing"):
            command(run)
