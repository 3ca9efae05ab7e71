from __future__ import annotations

import os

# Several test processes share the processor; more threads in each would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dbbd_cli.config.image_classification import ImageClassificationConfig

SHARED = Path(__file__).parents[1] / ".." / "shared"


@pytest.fixture(autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps decoded images out of the user's own cache; shared by the tests of a session."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("DBBD_CACHE_DIR", str(folder))


@pytest.fixture
def shared() -> Path:
    """The folder of real data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("no folder with real data beside the repository")
    return SHARED


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., ImageClassificationConfig]:
    """Makes a configuration that trains in a second; keyword arguments replace settings by dotted key."""
    from dbbd_cli.config.load import config_from_mapping

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
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
        nested: dict[str, object] = {"task": "image_classification"}
        for key, value in values.items():
            *sections, last = key.split(".")
            place = nested
            for section in sections:
                place = place.setdefault(section, {})  # type: ignore[assignment]
            place[last] = value
        return config_from_mapping(nested, origin="test")

    return make


@pytest.fixture
def picture_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with class sub-folders of small pictures, each of its own colour and content."""

    def make(classes: tuple[str, ...] = ("cat", "dog", "owl"), count: int = 8, name: str = "pictures") -> Path:
        root = tmp_path / name
        for label, class_name in enumerate(classes):
            (root / class_name).mkdir(parents=True)
            for index in range(count):
                colour = tuple(80 * (channel == label % 3) + 7 * index for channel in range(3))
                Image.new("RGB", (40, 30), colour).save(root / class_name / f"{index}.png")
        return root

    return make
