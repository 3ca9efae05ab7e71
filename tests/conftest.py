"""Fixtures for all tests: tiny configurations, small datasets, and isolation from the files of the user."""

from __future__ import annotations

import os

# Several test processes share the processors; more threads in each would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.data.scenes.trees.region_tree import RegionTree
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig

# Bytecode is kept, as for an installed program: else each of hundreds of processes would compile the program anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# In the background of a shell, or under nohup, the tests would ignore signals that they send to themselves.
for _name in ("SIGINT", "SIGHUP", "SIGTERM", "SIGUSR1"):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), signal.default_int_handler if _name == "SIGINT" else signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Start one process more than there are processors: some tests mostly wait for other processes."""
    return (os.cpu_count() or 1) + 1


SHARED = Path(__file__).parents[1] / ".." / "shared"


@pytest.fixture(autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a cache folder shared by the tests of a session instead of the user's."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("DBBD_CACHE_DIR", str(folder))


@pytest.fixture(autouse=True)
def _no_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip flushing to the disk, which takes a third of the time of a small run. Power cuts are the subject elsewhere.

    `tests/reliability/test_every_write.py` looks at what its own processes flush, and when.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def _instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make PyTorch report the instruction set named by $DBBD_TEST_CPU, for `make test-processors`."""
    if instructions := os.environ.get("DBBD_TEST_CPU"):
        import torch

        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: True}, raising=False)


@pytest.fixture
def shared() -> Path:
    """The folder of real data next to the repository."""
    if not SHARED.is_dir():
        pytest.skip("no folder with real data next to the repository")
    return SHARED


@pytest.fixture
def golden() -> Path:
    """The folder of golden values of DBBD, described in its README.md."""
    return Path(__file__).parent / "golden"


def _checked(task: str, values: Mapping[str, object], changes: Mapping[str, object]) -> TaskConfig:
    """Return the configuration with `values` by dotted key, overridden by `changes`, in which `__` stands for a dot."""
    from dbbd_cli.tasks.configs import config_from_mapping

    nested: dict[str, Any] = {"task": task}
    for key, value in {**values, **{key.replace("__", "."): value for key, value in changes.items()}}.items():
        *sections, last = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return config_from_mapping(nested, origin="test")


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., ImageClassificationConfig]:
    """Return a function that creates a configuration of a one-second run; keyword arguments override settings."""

    def make(**changes: object) -> ImageClassificationConfig:
        values: dict[str, object] = {
            "run.runs_dir": str(tmp_path / "runs"),
            "run.device": "cpu",
            "run.plots": False,
            "run.log_every_steps": 1,
            "data.sample_per_class": 20,
            "data.image_size": 32,
            "training.batch_size": 8,
            "training.epochs": 2,
        }
        config = _checked("image_classification", values, changes)
        assert isinstance(config, ImageClassificationConfig)
        return config

    return make


@pytest.fixture
def tiny_point_config(tmp_path: Path) -> Callable[..., DbbdConfig]:
    """Return a function that creates a DBBD configuration of a one-second run; keyword arguments override settings.

    Of its 8 rooms, 6 are for training, in 3 batches, and 1 each for validation and test.
    """

    def make(**changes: object) -> DbbdConfig:
        values: dict[str, object] = {
            "run.runs_dir": str(tmp_path / "runs"),
            "run.device": "cpu",
            "run.plots": False,
            "run.log_every_steps": 1,
            "data.synthetic_scenes": 8,
            "data.synthetic_points": 1000,
            "data.max_depth": 2,
            "data.num_workers": 0,
            "model.hidden_dim": 16,
            "model.output_dim": 16,
            "model.encoder_hidden_dims": [16],
            "model.propagator_hidden_dim": 16,
            "model.projection_dim": 16,
            "loss.point_samples": 64,
            "training.batch_size": 2,
            "training.epochs": 2,
        }
        if any(key.replace("__", ".") == "data.path" for key in changes):
            values |= {"data.source": "folder"}
            values.pop("data.synthetic_scenes")
            values.pop("data.synthetic_points")
        config = _checked("dbbd", values, changes)
        assert isinstance(config, DbbdConfig)
        return config

    return make


@pytest.fixture
def scene_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that creates a folder of scenes: a .pkl with a dict for each, in a folder per split."""

    def make(
        splits: Mapping[str, int] | None = None,
        *,
        num_points: int = 1000,
        trees: bool = False,
        colors: bool = False,
        labels: bool = True,
        name: str = "scenes",
    ) -> Path:
        from dbbd_cli.data.scenes.synthetic_rooms.generator import generate_room
        from dbbd_cli.data.scenes.trees.builder import build_tree

        number = 0
        for split, count in (splits or {"train": 4, "val": 2, "test": 1}).items():
            (tmp_path / name / split).mkdir(parents=True)
            for index in range(count):
                room = generate_room(7, number, num_points)
                content: dict[str, Any] = {"coords": room.coord, "normals": room.normal, "num_points": num_points}
                if trees:
                    tree = build_tree(room.coord, max_depth=3, min_region_points=8)
                    depth = int(tree.level.max())
                    content |= {"total_regions": tree.num_regions, "max_depth_reached": depth}
                    content |= {"hierarchy": nested_tree(tree)}
                if colors:
                    content["colors"] = room.color
                if labels:
                    content["segment20"] = room.segment
                path = tmp_path / name / split / f"scene{index:04d}_00.pkl"
                path.write_bytes(pickle.dumps(content))
                number += 1
        return tmp_path / name

    return make


def nested_tree(tree: RegionTree, row: int = 0) -> dict[str, Any]:
    """Return a tree as stored in a .pkl: nested dicts."""
    return {
        "indices": tree.region(row).copy(),
        "center_idx": int(tree.center_idx[row]),
        "level": int(tree.level[row]),
        "children": [nested_tree(tree, int(child)) for child in (tree.parent == row).nonzero()[0]],
    }


@pytest.fixture
def picture_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that creates a folder of small pictures by class, each of a different color."""

    def make(classes: tuple[str, ...] = ("cat", "dog", "owl"), count: int = 8, name: str = "pictures") -> Path:
        root = tmp_path / name
        for label, class_name in enumerate(classes):
            (root / class_name).mkdir(parents=True)
            for index in range(count):
                color = tuple(80 * (channel == label % 3) + 7 * index for channel in range(3))
                Image.new("RGB", (40, 30), color).save(root / class_name / f"{index}.png")
        return root

    return make
