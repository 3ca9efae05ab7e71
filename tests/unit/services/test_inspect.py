"""`inspect` names what gives the class away and what to do, finds copies and leaks, and `train` warns in short."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dbbd_cli.config.load import parse_override
from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.data.images.qr_code import render_modules
from dbbd_cli.data.scenes import properties
from dbbd_cli.data.scenes.properties import scene_facts
from dbbd_cli.data.urls.synthetic import synthetic_urls
from dbbd_cli.services.inspect import inspect, warn_of_shortcuts
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.results import InspectResult
from dbbd_cli.tasks.configs import load_config
from unit.services.shown_runs import Shown


def config_of(name: str, *settings: str) -> TaskConfig:
    return load_config(name, [parse_override(setting) for setting in settings])


def named(result: InspectResult) -> set[str]:
    return {found.name for found in result.shortcuts if found.clear}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """URLs without scheme; 4 of 5 of one class get one."""
    rows = []
    for label, urls in synthetic_urls(300, 1).items():
        for place, url in enumerate(urls):
            bare = url.partition("://")[2] or url
            rows.append(f"{'http://' if (place % 5 == 0) ^ (label == 'malicious') else ''}{bare},{label}")
    path = tmp_path / "urls.csv"
    path.write_text("\n".join(["url,label", *rows, "A1.example/x,benign", "a2.example/x,benign"]), encoding="utf-8")
    return path


@pytest.fixture
def telling_pictures(tmp_path: Path) -> Path:
    """The same noise in both classes, but one with 1 bit and one with 8, and other sizes."""
    random = np.random.default_rng(0)
    for name, side, mode in (("benign", 40, "1"), ("malicious", 44, "L")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for place in range(150):
            noise = Image.fromarray((random.random((10, 10)) < 0.5).astype(np.uint8) * 255)
            noise.resize((side, side), 0).convert(mode).save(tmp_path / "pictures" / name / f"{place}.png")
    first = tmp_path / "pictures" / "benign" / "0.png"
    Image.open(first).convert("L").resize((80, 80), 0).save(first.parents[1] / "malicious" / "copy.jpg", quality=95)
    return tmp_path / "pictures"


def test_the_scheme_is_found_until_it_is_removed(table: Path) -> None:
    settings = [f"data.path={table}", "data.split.group=none"]
    result = inspect(config_of("qr_url", *settings, "data.urls.scheme=keep"))
    assert [sum(counts.values()) for counts in result.counts.values()] == [302, 300]
    [scheme] = [found for found in result.shortcuts if found.name == "scheme"]
    assert scheme.clear
    assert scheme.low < 0.8 < scheme.high
    assert scheme.advice == "set data.urls.scheme: strip"
    assert result.properties["scheme"]["train"]["share"] == pytest.approx(0.5, abs=0.1)
    overlaps = {found.name: found for found in result.overlaps}
    assert overlaps["the same content"].groups == 0
    assert ["A1.example/x", "a2.example/x"] in overlaps["the same text but for case and numbers"].examples
    assert overlaps["the same host"].held_out > 0
    assert "scheme" not in named(inspect(config_of("qr_url", *settings)))
    assert {found.name: found for found in inspect(config_of("qr_url", f"data.path={table}")).overlaps}[
        "the same host"
    ].held_out == 0


def test_codes_of_urls_have_the_properties_of_the_urls_that_are_rendered(table: Path) -> None:
    settings = ["data.image_size=32", f"data.path={table}", "data.sample_per_class=100"]
    names = {found.name for found in inspect(config_of("qr_cnn", *settings)).shortcuts}
    assert {"scheme", "QR version", "mean gray"} <= names
    result = inspect(config_of("qr_cnn", *settings, "data.urls.scheme=strip"))
    assert result.properties["scheme"]["val"] == {"most_frequent": "none", "share": 1.0}


def test_pictures_that_give_the_class_away_by_their_files(telling_pictures: Path, tmp_path: Path) -> None:
    settings = ("data.image_size=32", f"data.path={telling_pictures}")
    result = inspect(config_of("qr_cnn", *settings), out=tmp_path / "figures")
    assert {"width", "height", "bit depth", "mode", "file size"} <= named(result)
    assert result.shortcuts[0].balanced_accuracy > 0.95
    assert (result.chance, result.best_possible) == (0.5, 1.0)
    assert {found.name: found.groups_across_classes for found in result.overlaps} == {
        "the same content": 0,
        "similar pixels": 1,
    }
    assert result.files == [tmp_path / "figures" / "shortcuts.png"]
    with Image.open(result.files[0]) as figure:
        assert figure.width > 1000


def qr_codes(root: Path, seed: int, save: Callable[[Image.Image, bool, Path], None], count: int = 80) -> Path:
    """QR codes of URLs that say nothing about the class; `save` gets the code, whether it is malicious, and a path."""
    urls = [url for urls in synthetic_urls(count, seed).values() for url in urls]
    order = np.random.default_rng(seed).permutation(len(urls))
    for place, number in enumerate(order):
        label = ("benign", "malicious")[place % 2]
        (root / label).mkdir(parents=True, exist_ok=True)
        save(Image.fromarray(render_modules(urls[number], 3)), place % 2 == 1, root / label / f"{place}.png")
    return root


def save_as_one_bit(code: Image.Image, malicious: bool, path: Path) -> None:
    code.convert("1" if malicious else "L").save(path)


def save_as_palette(code: Image.Image, malicious: bool, path: Path) -> None:
    (code.quantize(2) if malicious else code).save(path)


def save_larger(code: Image.Image, malicious: bool, path: Path) -> None:
    code.resize((4 * code.width // 3, 4 * code.height // 3), 0).save(path) if malicious else code.save(path)


@pytest.mark.parametrize(
    ("save", "telling", "others"),
    [
        (save_as_one_bit, {"bit depth", "mode", "file size"}, {"width", "height", "format", "QR version", "mean gray"}),
        (save_as_palette, {"bit depth", "mode"}, {"width", "height", "format", "QR version", "mean gray"}),
        (save_larger, {"width", "height"}, {"bit depth", "mode", "format", "QR version", "mean gray"}),
    ],
)
def test_codes_whose_files_alone_tell_the_class(
    save: Callable[[Image.Image, bool, Path], None], telling: set[str], others: set[str], tmp_path: Path
) -> None:
    root = qr_codes(tmp_path / "codes", 1, save)
    found = inspect(config_of("qr_cnn", "data.image_size=64", f"data.path={root}"))
    assert telling <= named(found)
    assert not others & named(found)
    assert {part.name for part in found.shortcuts} >= telling | others
    best = found.shortcuts[0]
    assert best.name in telling
    assert best.balanced_accuracy > 0.9
    assert best.advice.startswith(("save the images of all classes again", "crop or pad the images of all classes"))


def test_scenes_have_no_shortcuts_but_copies_and_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    for place in range(6):
        np.savez(tmp_path / f"{place}.npz", coord=random.random((100, 3)))
    coord = np.load(tmp_path / "0.npz")["coord"]
    np.savez(tmp_path / "copy.npz", coord=coord[::-1] * 1000)
    read = []
    monkeypatch.setattr(properties, "scene_facts", lambda ref, sampling: read.append(ref) or scene_facts(ref, sampling))
    result = inspect(config_of("debug_local", "data.source=folder", f"data.path={tmp_path}", "data.max_train_scenes=9"))
    assert (result.counts, result.shortcuts, result.chance) == ({}, [], None)
    assert sum(result.samples.values()) == len(read) == 7  # each is read once
    assert result.properties["suffix"]["train"] == {"most_frequent": ".npz", "share": 1.0}
    assert {found.name: found.groups for found in result.overlaps} == {
        "the same content": 0,
        "the same points in another order or unit": 1,
    }


def test_train_warns_once_of_the_strongest_shortcuts(telling_pictures: Path, tmp_path: Path) -> None:
    settings = ("data.image_size=32", f"data.path={telling_pictures}", f"run.runs_dir={tmp_path}")
    config, manifest = prepare_run(config_of("qr_cnn", *settings), Shown())
    shown = Shown()
    warn_of_shortcuts(config, manifest, shown)
    [warning] = shown.warnings
    assert f"{manifest.counts()['val']} validation images far better" in warning
    assert "far better than chance (50%): width (100%), height (100%), " in warning
    assert warning.endswith("dbbd inspect says what to do.")


def test_train_decodes_nothing_for_the_warning_and_needs_no_cache(
    telling_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("data.image_size=32", f"data.path={telling_pictures}", f"data.cache_dir={tmp_path / 'cache'}")
    config, manifest = prepare_run(config_of("qr_cnn", *settings), Shown())
    for path in (tmp_path / "cache").glob("images-*"):
        path.unlink()
    monkeypatch.setattr("dbbd_cli.data.images.processes._in_workers", lambda *_: pytest.fail("decoded again"))
    shown = Shown()
    warn_of_shortcuts(config, manifest, shown)
    assert len(shown.warnings) == 1


@pytest.mark.parametrize("name", ["qr_url", "smoke_dbbd"])
def test_train_does_not_warn_of_synthetic_data(name: str, tmp_path: Path) -> None:
    few = ["data.sample_per_class=200"] if name == "qr_url" else []
    config, manifest = prepare_run(config_of(name, f"run.runs_dir={tmp_path}", *few), Shown())
    shown = Shown()
    warn_of_shortcuts(config, manifest, shown)
    assert shown.warnings == []


def test_pictures_that_differ_in_nothing_trivial_cause_no_warning(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for name in ("one", "two"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for place in range(60):
            Image.fromarray(random.integers(255, size=(40, 40), dtype=np.uint8)).save(
                tmp_path / "pictures" / name / f"{place}.png"
            )
    settings = ("data.image_size=32", f"data.path={tmp_path / 'pictures'}", f"run.runs_dir={tmp_path}")
    config, manifest = prepare_run(config_of("qr_cnn", *settings), Shown())
    shown = Shown()
    warn_of_shortcuts(config, manifest, shown)
    assert shown.warnings == []


def test_a_task_that_measures_nothing_is_inspected_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from dbbd_cli.tasks.base import Task
    from dbbd_cli.tasks.url_classification.task import UrlClassification

    monkeypatch.setattr(UrlClassification, "inspect_samples", Task.inspect_samples)
    result = inspect(config_of("qr_url", "data.sample_per_class=20"))
    assert (result.shortcuts, result.properties) == ([], {})
    assert [found.name for found in result.overlaps] == ["the same content"]


def test_real_urls_tell_their_class_by_their_scheme(shared: Path) -> None:
    path = f"data.path={shared / 'data' / 'qr_urls.csv'}"
    kept = inspect(config_of("qr_url", path, "data.urls.scheme=keep", "data.urls.www=keep", "data.split.group=none"))
    scores: dict[str, Any] = {found.name: found for found in kept.shortcuts}
    assert kept.shortcuts[0].name == "scheme"
    assert scores["scheme"].low < 0.867 < scores["scheme"].high
    assert scores["www."].clear
    assert not {"scheme", "www."} & named(inspect(config_of("qr_url", path)))
