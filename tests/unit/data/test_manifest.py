"""A manifest reads back equal, and a damaged one is a checkpoint error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dbbd_cli.core.errors import CheckpointError, DataError
from dbbd_cli.data.manifest import SPLITS, Manifest, Sample


def test_manifest_reads_back_equal(tmp_path: Path) -> None:
    samples = tuple(Sample(f"cat/ü {index}.png", 0, "ab" * 32, SPLITS[index]) for index in range(3))
    manifest = Manifest("folder", ("cat", "dog"), ("/data/cat", "/data/dog"), samples, ("x.png: empty file",))
    path = tmp_path / "splits.json"
    path.write_text(manifest.to_json(), encoding="utf-8")
    assert Manifest.load(path) == manifest


def test_texts_that_were_read_are_stored_only_where_there_are_any(tmp_path: Path) -> None:
    texts = ("http://a.example/ü", "", "")
    samples = tuple(Sample(f"cat/{index}.png", 0, "ab" * 32, SPLITS[index], texts[index]) for index in range(3))
    path = tmp_path / "splits.json"
    path.write_text(Manifest("folder", ("cat", "dog"), (), samples).to_json(), encoding="utf-8")
    assert ["text" in row for row in json.loads(path.read_text())["samples"]] == [True, False, False]
    assert Manifest.load(path).samples == samples


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 9}', "null", '"x"', "[" * 100_000])
def test_damaged_manifest_is_a_checkpoint_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"splits\.json is damaged"):
        Manifest.load(path)


@pytest.mark.parametrize("value", ["\x1b[31m\n", "\u2028", "\ud800", "x" * 9000])
def test_the_error_about_a_manifest_is_one_short_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"format": value}))
    with pytest.raises(CheckpointError) as caught:
        Manifest.load(path)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000


def test_manifest_with_an_unknown_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text(Manifest("folder", ("a",), (), (Sample("a/1", 1, "", "train"),)).to_json())
    with pytest.raises(CheckpointError, match="unknown class"):
        Manifest.load(path)


def test_manifest_without_samples_in_a_split_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text(Manifest("folder", ("a",), (), (Sample("a/1", 0, "", "train"),)).to_json())
    with pytest.raises(CheckpointError, match="a split has no samples"):
        Manifest.load(path)


def test_a_manifest_too_large_to_be_read_again_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = tuple(Sample(f"{n}.png", n % 2, "0" * 64, "train") for n in range(10))
    manifest = Manifest("folder", ("a", "b"), ("a", "b"), samples)
    monkeypatch.setattr("dbbd_cli.data.manifest._MAX_BYTES", len(manifest.to_json()) - 1)
    with pytest.raises(DataError, match="the list of 10 samples has"):
        manifest.digest()
