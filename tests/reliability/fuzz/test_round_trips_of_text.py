"""Settings, tables, manifests and the records of a run read back equal to what was written."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch_seeds
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from properties import round_trips
from reader import write_once
from test_round_trips import plain_values, same

from dbbd_cli import __version__
from dbbd_cli.cli.completion import complete
from dbbd_cli.config.load import dump_config, parse_override
from dbbd_cli.data.manifest import Manifest, Sample
from dbbd_cli.data.problems import UNPRINTABLE
from dbbd_cli.data.urls.table import read_url_table
from dbbd_cli.engine import environment
from dbbd_cli.engine.checkpoint.files import WRITER, load_checkpoint, save_checkpoint
from dbbd_cli.engine.runtime import choose_runtime
from dbbd_cli.report.classification.evaluation_schema import ClassificationEvaluation
from dbbd_cli.report.evaluation import read_evaluation
from dbbd_cli.report.scenes.evaluation_scene import SCENE_FILE, read_evaluation_scene
from dbbd_cli.runs.reading import read_run
from dbbd_cli.tasks.configs import config_from_mapping, load_config
from dbbd_cli.tasks.dbbd.config import DbbdConfig

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=10)
NAMES = TEXT.map(str.strip).filter(lambda text: text and not UNPRINTABLE.search(text) and "\ufdd0" not in text)
FINITE = st.floats(-1e99, 1e99)
METRICS = st.dictionaries(TEXT, FINITE | st.none(), max_size=3)


@round_trips
@given(st.lists(TEXT.filter(bool), unique=True, min_size=1, max_size=4), FINITE.filter(lambda x: x > 0), st.booleans())
def test_configurations(tmp_path: Path, names: list[str], rate: float, plots: bool) -> None:
    values = {
        "task": "dbbd",
        "run": {"name": names[0], "plots": plots},
        "data": {"class_names": names},
        "training": {"learning_rate": rate, "min_lr": 0.0},
    }
    config = config_from_mapping(values, origin="test")
    assert load_config(str(write_once(tmp_path / "a.yaml", dump_config(config).encode()))) == config


@round_trips
@given(st.lists(TEXT.filter(bool), unique=True, min_size=1, max_size=4))
def test_overrides(names: list[str]) -> None:
    assume(not any(UNPRINTABLE.search(name) for name in names))
    override = parse_override(f"data.class_names={json.dumps(names, ensure_ascii=False)}")
    config = config_from_mapping({"task": "dbbd"}, [override], origin="test")
    assert isinstance(config, DbbdConfig)
    assert config.data.class_names == names


@round_trips
@given(st.lists(st.tuples(NAMES, NAMES, TEXT), max_size=5), st.sampled_from(",;\t"), st.booleans())
def test_tables_of_urls(tmp_path: Path, rows: list[tuple[str, str, str]], separator: str, mark: bool) -> None:
    assume("\0" not in "".join(other for _, _, other in rows))
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator)
    writer.writerow(["url", "label", "other"])
    writer.writerows(rows)
    path = write_once(tmp_path / "a.csv", buffer.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    assert read_url_table(path, "url", "label") == ([(url, label) for url, label, _ in rows], [])


@round_trips
@given(st.lists(st.tuples(TEXT, st.integers(0, 2), TEXT, st.sampled_from(["train", "val", "test"])), max_size=5), TEXT)
def test_lists_of_samples(tmp_path: Path, rows: list[tuple[str, int, str, str]], reason: str) -> None:
    ends = (Sample("a", 0, "", "train"), Sample("b", 1, "", "val"))
    manifest = Manifest("folder", ("a", "b", reason), ("/x",), (*ends, *(Sample(*row) for row in rows)), (reason,))
    assert Manifest.load(write_once(tmp_path / "splits.json", manifest.to_json().encode())) == manifest


@round_trips
@given(st.lists(st.tuples(METRICS, METRICS, st.booleans()), min_size=1, max_size=4), st.binary(max_size=5))
def test_histories(tmp_path: Path, epochs: list[tuple[dict[str, Any], dict[str, Any], bool]], torn: bytes) -> None:
    rows = [
        {"kind": "epoch", "epoch": i, "step": i, "learning_rate": 0.1, "train": train, "val": val, "best": best}
        for i, (train, val, best) in enumerate(epochs)
    ]
    write_once(tmp_path / "config.yaml", b"task: dbbd\n")
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    write_once(tmp_path / "history.jsonl", lines + b'{"kind": "epoch", "ep' + torn.replace(b"\n", b""))
    run = read_run(tmp_path)
    assert run.epochs == rows
    assert run.best_epoch == max((i for i, (_, _, best) in enumerate(epochs) if best), default=None)


@round_trips
@given(st.lists(TEXT, min_size=1, max_size=4), st.floats(0, 1), st.data())
def test_evaluations(tmp_path: Path, classes: list[str], share: float, data: st.DataObject) -> None:
    row = st.lists(st.integers(0, 10**6), min_size=len(classes), max_size=len(classes))
    matrix = data.draw(st.lists(row, min_size=len(classes), max_size=len(classes)))
    content = {"format": 1, "classes": classes, "accuracy": share, "confusion_matrix": matrix, "loss": None}
    write_once(tmp_path / "evaluation.json", json.dumps(content).encode())
    assert read_evaluation(tmp_path, ClassificationEvaluation) == content


@round_trips
@given(st.integers(1, 6), st.integers(1, 3), st.booleans(), st.data())
def test_scenes_of_evaluations(tmp_path: Path, count: int, levels: int, labels: bool, data: st.DataObject) -> None:
    whole = st.integers(-1, 2**31 - 1)
    scene = {
        "coord": data.draw(numpy_strategies.arrays(np.float32, (count, 3), elements=st.floats(-100, 100, width=32))),
        "color": data.draw(numpy_strategies.arrays(np.uint8, (count, 3))),
        "region": data.draw(numpy_strategies.arrays(np.int32, (levels, count), elements=whole)),
    }
    if labels:
        scene["segment"] = data.draw(numpy_strategies.arrays(np.int32, count, elements=whole))
    np.savez_compressed(tmp_path / SCENE_FILE, **scene)
    found = read_evaluation_scene((tmp_path / SCENE_FILE).read_bytes())
    assert found.keys() == scene.keys()
    assert all(same(found[name], array) for name, array in scene.items())


@round_trips
@given(plain_values(1), st.lists(st.floats(width=32, allow_nan=False), max_size=4), st.booleans())
def test_checkpoints(tmp_path: Path, value: Any, weights: list[float], best: bool) -> None:
    content = {**torch_seeds.content(), "random": value, "module": {"weight": torch.tensor(weights)}}
    save_checkpoint(content, tmp_path, best=best, keep=2)
    found = load_checkpoint(tmp_path / ("best_model.pth" if best else "ckpt.pth"))
    assert torch.equal(found.pop("module")["weight"], content.pop("module")["weight"])
    assert found.pop(WRITER) == __version__
    assert found == content


@round_trips
@given(st.lists(st.lists(TEXT, max_size=3), min_size=1, max_size=4))
def test_records_of_the_environment(tmp_path: Path, commands: list[list[str]]) -> None:
    (tmp_path / "environment.json").unlink(missing_ok=True)
    with mock.patch.multiple(environment, _git_commit=lambda: None, PACKAGES=()):
        for command in commands:
            environment.write_environment(tmp_path, command, choose_runtime("cpu", "fp32"))
    content = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
    assert [content["command"], *(later["command"] for later in content.get("resumed", []))] == commands


@round_trips
@given(st.lists(st.from_regex(r"[\w+=@%,-][\w +=@%,-]{0,8}[\w]", fullmatch=True), unique=True, max_size=4), st.data())
def test_what_the_shell_offers(tmp_path: Path, names: list[str], data: st.DataObject) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    for name in names:
        (tmp_path / f"{name}.pth").touch()
    assume(len(list(tmp_path.iterdir())) == len(names))  # some systems treat different names as equal
    typed = data.draw(st.sampled_from(names or [""]))[:2]
    expected = sorted(f"{tmp_path}/{name}.pth" for name in names if name.startswith(typed))
    assert sorted(value for value, _ in complete.target(f"{tmp_path}/{typed}")) == expected
