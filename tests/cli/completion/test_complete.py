"""Completion offers configurations, runs, tasks, devices, and the keys and values of the right task."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dbbd_cli.cli.app import app
from dbbd_cli.cli.completion import complete
from dbbd_cli.cli.completion.complete import setting_of
from dbbd_cli.config.shipped import shipped_configs
from dbbd_cli.tasks.registry import task_names


def values(candidates: list[tuple[str, str]]) -> list[str]:
    return [value for value, _ in candidates]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_configurations(folder: Path) -> None:
    (folder / "mine.yaml").touch()
    (folder / "mine.txt").touch()
    (folder / ".hidden.yaml").touch()
    (folder / "more").mkdir()
    assert set(values(complete.configuration(""))) == {*shipped_configs(), "mine.yaml", f"more{os.sep}"}
    assert values(complete.configuration("qr_c")) == ["qr_cnn"]
    assert values(complete.configuration("mi")) == ["mine.yaml"]
    assert values(complete.configuration(".h")) == [".hidden.yaml"]
    assert values(complete.configuration("no-such-folder/")) == []


def test_targets(folder: Path) -> None:
    for name in ("20260101-000000-a", "20260201-000000-b"):
        run = folder / "runs" / name
        run.mkdir(parents=True)
        for file in ("config.yaml", "ckpt.pth", "history.jsonl"):
            (run / file).touch()
    (folder / "runs" / "other").mkdir()
    first, second = (os.path.join("runs", name) for name in ("20260101-000000-a", "20260201-000000-b"))  # noqa: PTH118
    assert values(complete.target("")) == [first, second]
    assert values(complete.target(os.path.join("runs", ""))) == [first, second, os.path.join("runs", "other", "")]  # noqa: PTH118
    assert values(complete.target(first)) == [first]
    assert values(complete.target(os.path.join(first, ""))) == [os.path.join(first, "ckpt.pth")]  # noqa: PTH118
    assert values(complete.target("r")) == [first, second, os.path.join("runs", "")]  # noqa: PTH118


def test_keys_have_their_description() -> None:
    offered = dict(setting_of("", "training.l"))
    assert set(offered) == {"training.learning_rate=", "training.label_smoothing="}
    assert offered["training.learning_rate="] == "learning rate after warm-up"
    assert "data.augment.brightness=" in dict(setting_of("", "data.augment."))
    assert "seed=" in dict(setting_of("", ""))
    assert not any(value in ("data=", "data.split=") for value in dict(setting_of("", "data")))


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("data.source=f", ["data.source=folder"]),
        ("training.optimizer=", ["training.optimizer=adamw", "training.optimizer=sgd"]),
        ("run.plots=", ["run.plots=true", "run.plots=false"]),
        ("training.clip_grad_norm=", ["training.clip_grad_norm=null"]),
        ("run.device=c", ["run.device=cpu", "run.device=cuda"]),
        ("model.name=resnet", ["model.name=resnet18", "model.name=resnet34", "model.name=resnet50"]),
        ("training.learning_rate=", []),
        ("no.such.key=", []),
    ],
)
def test_values(typed: str, offered: list[str]) -> None:
    assert values(setting_of("", typed)) == offered


def keys_for(*words: str) -> set[str]:
    """The keys that the program offers for `--set data.` after these words."""
    line = " ".join(["dbbd", *words, "--set", "data."])
    environment = {"_DBBD_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    result = CliRunner().invoke(app, [], env=environment, prog_name="dbbd")
    return set(re.findall(r"data\.[a-z_.]+(?==)", result.output))


def test_keys_are_those_of_the_task_that_the_line_names(folder: Path) -> None:
    run = folder / "runs" / "20260101-000000-a"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("task: dbbd\nseed: 1\n", encoding="utf-8")
    (folder / "mine.yaml").write_text("# mine\nseed: 3\ntask: 'image_classification'  # x\n", encoding="utf-8")
    (folder / "odd.yaml").write_bytes(b"\xff task: dbbd\n")
    images, scenes = "data.image_size", "data.max_depth"
    for words, expected in (
        (["train", "--config", "qr_cnn"], {images}),
        (["train", "-c", "debug_local"], {scenes}),
        (["train", "--config=smoke_dbbd.yaml", "--epochs", "3"], {scenes}),
        (["train", "-c", "mine.yaml"], {images}),
        (["resume", str(run)], {scenes}),
        (["validate", str(run / "ckpt.pth")], {scenes}),
        (["evaluate", "old.pth", "-c", "dbbd_scannet"], {scenes}),
        (["train"], {images, scenes}),
        (["train", "-c", "odd.yaml"], {images, scenes}),
        (["train", "-c", "no-such-file.yaml"], {images, scenes}),
        (["resume", "x" * 5000], {images, scenes}),
    ):
        assert {images, scenes} & keys_for(*words) == expected, words


def test_the_values_of_a_key_are_those_of_the_task() -> None:
    assert values(setting_of("dbbd", "checkpoint.metric=")) == [
        f"checkpoint.metric={name}"
        for name in ("loss", "region_loss", "point_loss", "description_loss", "region_top1", "point_top1")
    ]
    assert "checkpoint.metric=f1" in values(setting_of("image_classification", "checkpoint.metric="))


def test_values_that_are_paths(folder: Path) -> None:
    (folder / "pictures").mkdir()
    (folder / "urls.csv").touch()
    assert values(setting_of("", "data.path=p")) == [f"data.path=pictures{os.sep}"]
    assert values(setting_of("", "data.path=u")) == ["data.path=urls.csv"]


def test_folders(folder: Path) -> None:
    (folder / "figures").mkdir()
    (folder / "file").touch()
    assert values(complete.folder("fi")) == [f"figures{os.sep}"]


@pytest.mark.parametrize("typed", ["~nobody-of-this-name/", "a\0b/", "/" + "x" * 5000 + "/"])
def test_nothing_is_offered_for_impossible_paths(folder: Path, typed: str) -> None:
    assert complete.target(typed) == complete.folder(typed) == setting_of("", f"data.path={typed}") == []


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_to_an_overlong_name_is_not_an_error(folder: Path) -> None:
    (folder / "a").symlink_to("x" * 300)
    (folder / "ab").mkdir()
    assert values(complete.folder("a")) == ["ab/"]
    assert values(setting_of("", "data.path=a")) == ["data.path=a", "data.path=ab/"]


def test_tasks() -> None:
    assert values(complete.task("")) == ["all", *task_names()]
    assert values(complete.task("al")) == ["all"]


def test_devices() -> None:
    assert values(complete.device("")) == ["auto", "cpu", "cuda", "mps"]


def test_inputs_and_files_of_predictions(folder: Path) -> None:
    for name in ("a.png", "b.csv", "c.html"):
        (folder / name).touch()
    (folder / "pictures").mkdir()
    assert values(complete.data("")) == ["a.png", "b.csv", "c.html", f"pictures{os.sep}"]
    assert values(complete.table("")) == ["b.csv", f"pictures{os.sep}"]
    assert values(complete.page("")) == ["c.html", f"pictures{os.sep}"]
