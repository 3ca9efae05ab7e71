"""`evaluate` of a classifier calibrates on validation alone, and other data has files of its own."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tars import write_shards

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import CheckpointError, ConfigError, DataError
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.model.digest import save_with_digest, stored_digest
from dbbd_cli.report.calibration import read_calibration
from dbbd_cli.report.classification.evaluation_schema import ClassificationEvaluation
from dbbd_cli.report.evaluation import read_evaluation
from dbbd_cli.report.tables import Note
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.plot import plot
from dbbd_cli.services.train import train
from dbbd_cli.services.validate import validate
from dbbd_cli.tasks.configs import config_from_mapping
from dbbd_cli.tasks.registry import get_task
from unit.services.shown_runs import Shown


def urls(path: Path, hosts: range, classes: tuple[str, str] = ("benign", "malicious")) -> Path:
    """A table of URLs, three of each host; the word in the path tells the class, nearly always."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "label"])
        for host in hosts:
            for page in range(3):
                word = ("garden", "login")[(host + (host % 9 == 0)) % 2]
                writer.writerow([f"site{host}.example/{word}/{page}", classes[host % 2]])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("urls")
    values = {
        "task": "url_classification",
        "run": {"runs_dir": str(folder / "runs"), "device": "cpu", "plots": False},
        "data": {"path": str(urls(folder / "own.csv", range(90))), "split": {"train": 0.5, "val": 0.25, "test": 0.25}},
        "model": {"hash_bits": 10},
        "training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.003},
    }
    return train(config_from_mapping(values, origin="test")).run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_the_report_has_intervals_baselines_errors_and_calibration(run: Path) -> None:
    found = evaluate(run, plots=True)
    report = read_evaluation(run, ClassificationEvaluation)
    assert report == json.loads(json.dumps(found.report))
    assert report is not None
    hosts = {sample.key.split("/")[0] for sample in Manifest.load(run / "splits.json").of("test")}
    assert (report["intervals"]["group"], report["intervals"]["groups"]) == ("hosts", len(hosts))
    low, high = report["intervals"]["accuracy"]
    assert low <= report["accuracy"] <= high
    names = [row["name"] for row in report["baselines"]]
    assert (names[0], names[-1]) == ("most frequent class", "n-grams")
    for row in report["baselines"]:
        assert row["lead"] == pytest.approx(report["accuracy"] - row["accuracy"])
        assert row["lead_interval"][0] <= row["lead"] <= row["lead_interval"][1]
    rows = list(csv.DictReader((run / "predictions.csv").read_text("utf-8").splitlines()))
    wrong = {row["path"] for row in rows if row["class"] != row["predicted"]}
    assert {error["sample"] for error in report["errors"]} <= wrong
    assert len(report["errors"]) == min(20, len(wrong))
    chances = [error["probability"] for error in report["errors"]]
    assert chances == sorted(chances, reverse=True)
    assert "baselines.png" in {path.name for path in found.files}
    plot([run], format="html")
    assert "Most confident errors" in (run / "report.html").read_text("utf-8") or not wrong


def test_calibration_belongs_to_the_weights_that_were_evaluated_if_training_replaces_them(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "best_model.pth"
    before = stored_digest(path)
    task = get_task("url_classification")
    evaluated = task.evaluate

    def replacing(*arguments: Any, **keywords: Any) -> Any:
        found = evaluated(*arguments, **keywords)
        save_with_digest({"step": 1}, path)
        return found

    monkeypatch.setattr(task, "evaluate", replacing)
    evaluate(run, plots=False)
    assert read_calibration(run, before) is not None
    assert read_calibration(run, stored_digest(path)) is None


def test_calibration_depends_on_validation_alone_and_belongs_to_the_weights(run: Path) -> None:
    evaluate(run, plots=False)
    content = (run / "calibration.json").read_bytes()
    digest = stored_digest(run / "best_model.pth")
    calibration = read_calibration(run, digest)
    assert calibration is not None
    assert calibration.num_samples == len(Manifest.load(run / "splits.json").of("val"))
    assert (calibration.positive_class, calibration.false_positive_rate) == ("malicious", 0.01)
    assert calibration.achieved is not None
    assert calibration.achieved.rate <= 0.01 <= calibration.achieved.high
    assert read_calibration(run, "0" * 64) is None
    assert read_calibration(run.parent, digest) is None
    for split in ("train", "val"):
        evaluate(run, split=split, plots=False)
        assert (run / "calibration.json").read_bytes() == content
    validation = json.loads((run / "evaluation-val.json").read_text("utf-8"))
    assert validation["calibration"]["at_threshold"]["false_positive_rate"]["value"] == calibration.achieved.rate
    evaluate(run, plots=False, overrides=[Override("evaluation.false_positive_rate", 0.5, "--set")])
    other = read_calibration(run, digest)
    assert other is not None
    assert other.threshold is not None
    assert calibration.threshold is not None
    assert other.threshold < calibration.threshold
    assert (other.temperature, other.bias) == (calibration.temperature, calibration.bias)
    found = (validation["loss"], validation["calibration"]["before"]["accuracy"])
    logged = validate(run).metrics
    assert found == pytest.approx((logged["loss"], logged["accuracy"]), abs=1e-6)
    assert validation["calibration"]["loss"] <= validation["loss"]


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2}', '{"temperature": "1"}', "[" * 100_000])
def test_a_damaged_calibration_is_an_error(run: Path, content: str) -> None:
    (run / "calibration.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"calibration\.json is damaged"):
        read_calibration(run, "0" * 64)


def test_other_data_has_files_of_its_own_and_shared_samples_are_counted(run: Path, tmp_path: Path) -> None:
    evaluate(run)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    path = urls(tmp_path / "more urls.csv", range(80, 130))
    told = Shown()
    found = evaluate(run, data=path, progress=told)
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before
    assert {"evaluation-more_urls.json", "predictions-more_urls.csv", "roc-more_urls.png"} <= set(after)
    train_hosts = {sample.key.split("/")[0] for sample in Manifest.load(run / "splits.json").of("train")}
    shared = 3 * len(train_hosts & {f"site{host}.example" for host in range(80, 130)})
    assert shared
    assert found.report["shared_with_training"] == {"samples": shared, "hosts": shared}
    assert found.report["num_samples"] == 150
    assert (found.report["split"], found.report["data"]) == (None, str(path))
    assert found.report["calibration"]["temperature"] == json.loads(before["calibration.json"])["temperature"]  # type: ignore[index]


def test_classes_of_other_data_are_matched_by_name(run: Path, tmp_path: Path) -> None:
    own = evaluate(run, plots=False).report
    manifest = Manifest.load(run / "splits.json")
    path = tmp_path / "val.csv"
    rows = [f"{sample.key},{manifest.classes[sample.label]}" for sample in manifest.of("test")]
    path.write_text("\n".join(["url,label", *rows]) + "\n", encoding="utf-8")
    other = evaluate(run, data=path, plots=False)
    assert other.report["accuracy"] == own["accuracy"]
    assert other.report["loss"] == pytest.approx(own["loss"])
    assert (run / "evaluation-val-data.json").exists()  # evaluation-val.json is that of a split
    with pytest.raises(DataError, match="has the classes good, malicious, and the run has benign, malicious"):
        evaluate(run, data=urls(tmp_path / "named.csv", range(20), ("good", "malicious")))
    with pytest.raises(ConfigError, match="does not exist"):
        evaluate(run, data=tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="data behind URLs cannot be evaluated") as caught:
        evaluate(run, data=Path("https://ali:baba@example.com/a-{00..09}.tar"))
    assert "baba" not in caught.value.message
    with pytest.raises(ConfigError, match="all of"):
        evaluate(run, data=path, split="val")


def test_equal_commands_write_equal_reports(run: Path) -> None:
    def measured() -> dict[str, object]:
        report = dict(evaluate(run, plots=False).report)
        report.pop("efficiency")
        return report

    threads = torch.get_num_threads()
    assert measured() == measured()
    assert torch.get_num_threads() == threads


def test_images_of_another_folder_and_the_gallery(
    tiny_config: Callable[..., Any], picture_folder: Callable[..., Path]
) -> None:
    """The classes of the other folder are the same, its pictures are not."""
    config = tiny_config(data__source="folder", data__path=str(picture_folder()), training__epochs=1)
    run = train(config).run
    report = evaluate(run, plots=False).report
    assert report["intervals"]["group"] == "samples"  # type: ignore[index]
    names = [row["name"] for row in report["baselines"]]  # type: ignore[attr-defined]
    assert names[0] == "most frequent class"
    assert "rule: file size" in names
    assert "rule: width" not in names  # all are equally wide
    other = evaluate(run, data=picture_folder(count=5, name="others"), plots=True)
    assert other.report["num_samples"] == 15
    assert other.report["shared_with_training"]["hosts"] is None  # type: ignore[index]
    assert other.report["shared_with_training"]["samples"] > 0  # type: ignore[index]
    assert {"evaluation-others.json", "errors-others.npy", "errors-others.png"} <= {path.name for path in other.files}
    before = (run / "evaluation.json").read_bytes()
    with pytest.raises(DataError, match="has the classes ant, bee, and the run has cat, dog, owl"):
        evaluate(run, data=picture_folder(("ant", "bee"), name="insects"))
    assert (run / "evaluation.json").read_bytes() == before


def test_all_images_of_another_table_count_whatever_their_splits(
    tiny_config: Callable[..., Any], picture_folder: Callable[..., Path]
) -> None:
    root = picture_folder(("cat", "dog"), count=12)
    splits = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    rows = [f"{name}/{number}.png,{name},{splits[number]}" for name in ("cat", "dog") for number in range(12)]
    (root / "list.csv").write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    config = tiny_config(data__source="table", data__path=str(root / "list.csv"), training__epochs=1)
    run = train(config).run
    assert Manifest.load(run / "splits.json").counts() == {"train": 12, "val": 6, "test": 6}
    (root / "later.csv").write_text("\n".join(["path,label,split", *rows[:6], *rows[-6:]]), encoding="utf-8")
    assert evaluate(run, data=root / "later.csv", plots=False).report["num_samples"] == 12
    assert evaluate(run, data=root, plots=False).report["num_samples"] == 24


def test_all_images_of_other_shards_count(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", (20, 16))
    config = tiny_config(data__source="shards", data__path=str(tmp_path / "shards"), training__epochs=1)
    run = train(config).run
    assert sum(Manifest.load(run / "splits.json").counts().values()) == 36
    report = evaluate(run, plots=False).report
    assert "file size" in " ".join(row["name"] for row in report["baselines"])  # type: ignore[attr-defined]
    assert evaluate(run, data=tmp_path / "shards", plots=False).report["num_samples"] == 36
    assert evaluate(run, data=tmp_path / "shards" / "a-01.tar", plots=False).report["num_samples"] == 16


def test_pretraining_has_no_other_data(tiny_point_config: Callable[..., Any], tmp_path: Path) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    with pytest.raises(ConfigError, match="dbbd cannot be evaluated on another data set"):
        evaluate(run, data=tmp_path)
    assert not (run / "calibration.json").exists()


def test_pictures_whose_files_give_the_class_away(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    root = tmp_path / "pictures"
    for name, mode in (("benign", "L"), ("malicious", "1")):
        (root / name).mkdir(parents=True)
        for place in range(80):
            noise = Image.fromarray((random.random((10, 10)) < 0.5).astype(np.uint8) * 255)
            noise.resize((40, 40), 0).convert(mode).save(root / name / f"{place}.png")
    config = tiny_config(data__source="folder", data__path=str(root), data__sample_per_class=None, training__epochs=1)
    run = train(config).run
    found = evaluate(run, plots=False)
    rules = {row["name"]: row for row in found.report["baselines"]}  # type: ignore[attr-defined]
    assert rules["rule: bit depth"]["accuracy"] == rules["rule: mode"]["accuracy"] == 1.0
    assert rules["rule: bit depth"]["is_shortcut"]
    assert not rules["rule: mean gray"]["is_shortcut"]
    tables = get_task("image_classification").tables(found.report)
    [note] = [part.text for part in tables if isinstance(part, Note) and "shortcuts" in part.text]
    assert "bit depth (100.0%)" in note
    assert "mean gray" not in note
    # The pixels are in the cache, but the files are gone.
    shutil.rmtree(root)
    names = [row["name"] for row in evaluate(run, plots=False).report["baselines"]]  # type: ignore[attr-defined]
    assert names == ["most frequent class", "rule: mean gray"]
