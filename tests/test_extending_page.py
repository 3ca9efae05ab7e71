"""The code in docs/extending.md is that of the tests, fits the package, and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from extending.json_lines import read_json_lines
from extending.tiny_cnn import TinyCnn

from dbbd_cli.config.load import parse_override
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.scenes import reader
from dbbd_cli.data.urls import sources
from dbbd_cli.model.images.classifier import Classifier
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.registry import ENTRY_POINTS, get_task

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- from (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL)
CHANGES = re.findall(r"<!-- in (\S+) -->\n```diff\n(.*?)```", PAGE, re.DOTALL)


def test_every_block_names_its_file() -> None:
    assert len(BLOCKS) == PAGE.count("```python")
    assert len(CHANGES) == PAGE.count("```diff")


@pytest.mark.parametrize(("file", "code"), BLOCKS, ids=[code.split("(")[0].strip() for _, code in BLOCKS])
def test_python_code_is_that_of_its_file(file: str, code: str) -> None:
    assert code in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(("file", "change"), CHANGES, ids=[file for file, _ in CHANGES])
def test_a_change_applies_to_its_file(file: str, change: str) -> None:
    before = "".join(line[1:] for line in change.splitlines(keepends=True) if not line.startswith("+"))
    assert before in (ROOT / file).read_text(encoding="utf-8")


def test_the_entry_point_is_that_of_the_toy_task() -> None:
    (line,) = re.findall(rf'\[project.entry-points."{ENTRY_POINTS}"\]\n(.*)\n', PAGE)
    installed = ROOT / "tests/toy_task/toy_regression-1.0.dist-info/entry_points.txt"
    assert f"[{ENTRY_POINTS}]\n{line.replace(chr(34), '')}\n" == installed.read_text(encoding="utf-8")


def test_the_model_trains() -> None:
    module = Classifier(TinyCnn(num_classes=3, dropout=0.5))
    output = module(torch.rand(2, 3, 40, 40), torch.tensor([0, 2]))
    output.loss.backward()
    assert output.num_samples == 2
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_reader_of_scenes_is_used_for_its_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from extending.xyzl import read_xyzl

    monkeypatch.setitem(reader.READERS, ".xyzl", read_xyzl)
    path = tmp_path / "room.xyzl"
    path.write_text("".join(f"{x} {x * x} 0.5 {x % 3}\n" for x in range(50)), encoding="utf-8")
    scene = reader.read_scene(path)
    assert scene.coord.shape == (50, 3)
    assert scene.segment is not None
    assert scene.segment.tolist() == [x % 3 for x in range(50)]
    path.write_text("1 2 3\n", encoding="utf-8")
    with pytest.raises(reader.DataError, match="has 3 numbers per line"):
        reader.read_scene(path)


def test_the_reader_of_urls_is_used_for_its_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.URL_READERS, ".jsonl", read_json_lines)
    path = tmp_path / "urls.jsonl"
    rows = [f'{{"url": "https://{name}{i}.org", "label": "{name}"}}\n' for name in ("good", "bad") for i in range(9)]
    path.write_text("".join(rows), encoding="utf-8")
    overrides = [parse_override(f"data.path={path}"), parse_override("data.image_size=64")]
    config = load_config("qr_cnn", overrides)
    manifest = get_task(config.task).make_manifest(config, Silent())
    assert (manifest.source, manifest.classes, len(manifest.samples)) == ("urls", ("bad", "good"), 18)
    path.write_text("".join([*rows, "{}\n"]), encoding="utf-8")
    assert sources.list_urls(path, "url", "label").problems == ["urls.jsonl line 19: 'url'"]
