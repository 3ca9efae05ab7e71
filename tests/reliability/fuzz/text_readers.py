"""Readers of text: configurations, tables, manifests, the records of a run, and command lines."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import text_seeds as seeds
from reader import Reader, check_error, check_lines, require, write_once
from scene_seeds import sealed_zip

from dbbd_cli.cli.completion import complete
from dbbd_cli.config.load import dump_config, parse_override
from dbbd_cli.core.errors import CheckpointError, ConfigError, DataError
from dbbd_cli.data.images.sources import list_folder
from dbbd_cli.data.manifest import SPLITS, Manifest
from dbbd_cli.data.problems import UNPRINTABLE
from dbbd_cli.data.scenes.sources import list_scenes
from dbbd_cli.data.urls.cleaning import host_of
from dbbd_cli.data.urls.table import read_url_table
from dbbd_cli.report.calibration import read_calibration
from dbbd_cli.report.classification.gallery import read_pictures
from dbbd_cli.report.evaluation import evaluation_problem, read_evaluation
from dbbd_cli.report.scenes.evaluation_scene import read_evaluation_scene
from dbbd_cli.report.text import run_labels
from dbbd_cli.runs.reading import read_run
from dbbd_cli.tasks.configs import SCHEMAS, config_from_mapping, load_config
from dbbd_cli.tasks.registry import get_task, task_names


def config(data: bytes, folder: Path) -> None:
    loaded = load_config(str(write_once(folder / "a.yaml", data)))
    require(type(loaded) in SCHEMAS.values(), "it is not a configuration")
    again = load_config(str(write_once(folder / "b.yaml", dump_config(loaded).encode("utf-8", "surrogatepass"))))
    require(again == loaded, "it is not read back as it was written")


def mapping(data: bytes, _: Path) -> None:
    values = seeds.json_of(data)
    loaded = config_from_mapping(values, origin="ckpt.pth")
    require(type(loaded) in SCHEMAS.values(), "it is not a configuration")


def override(data: bytes, _: Path) -> None:
    parsed = parse_override(os.fsdecode(data))
    require(parsed.key and all(parsed.key.split(".")), "an empty key")
    config_from_mapping({"task": "dbbd"}, [parsed], origin="a")


def url_table(data: bytes, folder: Path) -> None:
    check_urls(write_once(folder / "a.csv", data))


def parquet(data: bytes, folder: Path) -> None:
    check_urls(write_once(folder / "a.parquet", data))


def check_urls(path: Path) -> None:
    samples, problems = read_url_table(path, "url", "label")
    check_lines(problems)
    for url, label in samples:
        require(url.strip() == url and label.strip() == label and url and label, "an empty field")
        require(not UNPRINTABLE.search(url + label), "a control character")
        require(type(host_of(url)) is str, "no host")


def manifest(data: bytes, folder: Path) -> None:
    loaded = Manifest.load(write_once(folder / "splits.json", data))
    require({"train", "val"} <= {sample.split for sample in loaded.samples} <= set(SPLITS), "an odd split")
    for sample in loaded.samples:
        require(type(sample.label) is int and 0 <= sample.label < max(len(loaded.classes), 1), "an odd label")
        require({type(sample.key), type(sample.sha256)} == {str}, "an odd sample")
    texts = (loaded.source, *loaded.classes, *loaded.roots, *loaded.skipped)
    require({type(text) for text in texts} <= {str}, "an odd text")
    path = write_once(folder / "again.json", loaded.to_json().encode())
    require(Manifest.load(path) == loaded, "it is not read back as it was written")


def history(data: bytes, folder: Path) -> None:
    write_once(folder / "config.yaml", b"task: dbbd\nrun: {name: a}\n")
    write_once(folder / "history.jsonl", data)
    _check_run(folder)


def run_config(data: bytes, folder: Path) -> None:
    write_once(folder / "config.yaml", data)
    write_once(folder / "history.jsonl", seeds.HISTORY)
    _check_run(folder)


def _check_run(folder: Path) -> None:
    run = read_run(folder)
    require({type(run.name), type(run.task), type(run.synthetic)} == {str, bool}, "odd facts")
    check_lines(run_labels([run]))
    numbers = [row["epoch"] for row in run.epochs]
    require(numbers and numbers == sorted(set(numbers)), "its epochs are not in order")
    require(run.best_epoch is None or run.best_epoch in numbers, "its best epoch is not among them")
    for row in run.epochs:
        for split in ("train", "val"):
            values = [*row[split].values(), row.get("learning_rate")]
            require(all(value is None or math.isfinite(value) for value in values), "a number that is not finite")


def evaluation(data: bytes, folder: Path) -> None:
    write_once(folder / "evaluation.json", data)
    for name in task_names():
        task = get_task(name)
        content = read_evaluation(folder, task.evaluation_schema())
        require(isinstance(content, dict), "it is not an object")
        require(not evaluation_problem(content, task.evaluation_schema()), "it is damaged, and was accepted")
        require(isinstance(task.tables(content), list), "no tables")


def calibration(data: bytes, folder: Path) -> None:
    write_once(folder / "calibration.json", data)
    found = read_calibration(folder, seeds.DIGEST)
    if found is not None:
        require(math.isfinite(found.temperature) and found.temperature > 0, "an odd temperature")
        require(all(map(math.isfinite, found.bias or ())), "an odd bias")
        require(found.threshold is None or 0 <= found.threshold < 1.1, "an odd threshold")


def error_pictures(data: bytes, folder: Path) -> None:
    pictures = read_pictures(data)
    require(pictures.dtype == np.uint8 and pictures.ndim == 4 and pictures.size, "no pictures")


def evaluation_scene(data: bytes, folder: Path) -> None:
    scene = read_evaluation_scene(data)
    count = len(scene["coord"])
    require(count and np.isfinite(scene["coord"]).all() and scene["coord"].shape == (count, 3), "odd coordinates")
    require(scene["color"].shape == (count, 3) and scene["color"].dtype == np.uint8, "odd colors")
    require(scene["region"].shape[1:] == (count,) and scene["region"].dtype == np.int32, "odd regions")
    require("segment" not in scene or scene["segment"].shape == (count,), "odd labels")


def folders(data: bytes, folder: Path) -> None:
    """Read a tree of files as a run folder, a folder of classes or scenes, and for shell completion."""
    root = seeds.make_tree(seeds.json_of(data), folder)
    for typed in ("", "runs/"):
        _check_offers(complete.target(f"{root}{os.sep}{typed}"), "")
    problems = []
    for list_files in (list_folder, list_scenes):
        try:
            problems += list_files(root).problems
        except DataError as error:
            check_error(error)
    check_lines(problems)
    try:
        read_run(root)
    except CheckpointError as error:
        check_error(error)


def completion(data: bytes, _: Path) -> None:
    typed = os.fsdecode(data)
    for offer in (complete.target, complete.configuration, complete.folder, complete.device):
        _check_offers(offer(typed), typed)
    for task in ("", *SCHEMAS):
        for text in (typed, f"data.path={typed}"):
            _check_offers(complete.setting_of(task, text), text)


def _check_offers(pairs: Any, typed: str) -> None:
    require(isinstance(pairs, list) and all(len(pair) == 2 for pair in pairs), "no pairs")
    for value, meaning in pairs:
        require(type(value) is str and type(meaning) is str, "no text")
        require(value.startswith(typed), "an offer that does not go on from what was typed")
        check_lines([value.removeprefix(typed), meaning])


READERS = [
    Reader("config", config, seeds.configs, (ConfigError,)),
    Reader("config_mapping", mapping, seeds.config_mappings, (ConfigError,), structured=True),
    Reader("override", override, seeds.overrides, (ConfigError,)),
    Reader("url_table", url_table, seeds.url_tables, (DataError,)),
    Reader("parquet", parquet, seeds.parquet_tables, (DataError,)),
    Reader("splits", manifest, seeds.manifests, (CheckpointError,)),
    Reader("history", history, seeds.histories, (CheckpointError,)),
    Reader("run_config", run_config, seeds.configs, (CheckpointError,)),
    Reader("evaluation", evaluation, seeds.evaluations, (CheckpointError,)),
    Reader("calibration", calibration, seeds.calibrations, (CheckpointError,)),
    Reader("error_pictures", error_pictures, seeds.error_pictures, (CheckpointError,)),
    Reader("evaluation_scene", evaluation_scene, seeds.evaluation_scenes, (CheckpointError,), sealed_zip),
    Reader("folders", folders, seeds.trees, (), structured=True),
    Reader("completion", completion, seeds.typed, ()),
]
