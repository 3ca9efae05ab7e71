"""What a TAB offers, asked of the functions directly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dbbd_cli.cli import complete
from dbbd_cli.config.shipped import shipped_configs


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
    offered = dict(complete.setting("training.l"))
    assert set(offered) == {"training.learning_rate=", "training.label_smoothing="}
    assert offered["training.learning_rate="] == "learning rate after warm-up"
    assert "data.augment.brightness=" in dict(complete.setting("data.augment."))
    assert "seed=" in dict(complete.setting(""))
    assert not any(value in ("data=", "data.split=") for value in dict(complete.setting("data")))


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("data.source=f", ["data.source=folder"]),
        ("training.optimizer=", ["training.optimizer=adamw", "training.optimizer=sgd"]),
        ("run.plots=", ["run.plots=true", "run.plots=false"]),
        ("training.clip_grad_norm=", ["training.clip_grad_norm=null"]),
        ("run.device=c", ["run.device=cpu", "run.device=cuda"]),
        ("training.learning_rate=", []),
        ("no.such.key=", []),
    ],
)
def test_values(typed: str, offered: list[str]) -> None:
    assert values(complete.setting(typed)) == offered


def test_values_that_are_paths(folder: Path) -> None:
    (folder / "pictures").mkdir()
    (folder / "urls.csv").touch()
    assert values(complete.setting("data.path=p")) == [f"data.path=pictures{os.sep}"]
    assert values(complete.setting("data.path=u")) == ["data.path=urls.csv"]


def test_folders(folder: Path) -> None:
    (folder / "figures").mkdir()
    (folder / "file").touch()
    assert values(complete.folder("fi")) == [f"figures{os.sep}"]


@pytest.mark.parametrize("typed", ["~nobody-of-this-name/", "a\0b/", "/" + "x" * 5000 + "/"])
def test_what_no_folder_can_be_called(folder: Path, typed: str) -> None:
    assert complete.target(typed) == complete.folder(typed) == complete.setting(f"data.path={typed}") == []


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_to_a_name_that_is_too_long(folder: Path) -> None:
    (folder / "a").symlink_to("x" * 300)
    (folder / "ab").mkdir()
    assert values(complete.folder("a")) == ["ab/"]
    assert values(complete.setting("data.path=a")) == ["data.path=a", "data.path=ab/"]


def test_devices() -> None:
    assert values(complete.device("")) == ["auto", "cpu", "cuda", "mps"]
