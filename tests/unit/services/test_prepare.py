"""Preparing scenes ahead of training: what a run needs, once, in processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tars import write_shards, write_tar

from dbbd_cli.config.load import parse_override
from dbbd_cli.core.errors import DiskError, StoppedError
from dbbd_cli.core.progress import Phase, Silent
from dbbd_cli.data.scenes import cache as scene_cache
from dbbd_cli.data.scenes import preparation
from dbbd_cli.data.scenes.cache import Room, SceneSettings
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.prepare import prepare
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.registry import get_task

SETTINGS = SceneSettings(normal_neighbors=8, max_depth=2, min_region_points=8)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for index in range(4):
        np.savez(folder / f"scan{index}.npz", coord=np.random.default_rng(index).random((300, 3)))
    (folder / "broken.ply").write_text("ply\nnonsense")
    return folder


class Lines(Silent):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def configured(scans: Path, *more: str) -> list[str]:
    return [f"data.path={scans}", f"data.cache_dir={scans.parent / 'cache'}", "data.num_workers=0", *more]


def test_what_is_prepared_is_found_by_training_and_skipped_the_next_time(
    scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("debug_local", [parse_override(text) for text in configured(scans, "data.on_error=skip")])
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_train_scenes": None})})
    lines = Lines()
    first = prepare(config, num_workers=2, progress=lines)
    assert (first.prepared, first.cached, len(first.problems)) == (4, 0, 1)
    assert "broken.ply: its header" in first.problems[0]
    assert lines.warnings == first.problems
    (scans / "broken.ply").unlink()
    np.savez(scans / "scan9.npz", coord=np.random.default_rng(9).random((300, 3)))
    second = prepare(config, num_workers=1)
    assert (second.prepared, second.cached, second.problems) == (1, 4, [])
    config, manifest = prepare_run(config, Silent())
    monkeypatch.setattr(scene_cache, "_make", lambda ref, *_: pytest.fail(f"{ref.name} was prepared again"))
    get_task("dbbd").build(
        config, manifest, splits=["train", "val"], pretrained=False, pin_memory=False, progress=Silent()
    )


def test_images_are_prepared_once_and_bad_ones_do_not_end_it(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", (20, 16))
    write_tar(tmp_path / "shards" / "b.tar", [("x.png", b"no image"), ("x.cls", b"cat")])
    config = tiny_config(data__source="shards", data__path=str(tmp_path / "shards"))
    found = prepare(config)
    assert (found.needed, found.prepared, found.cached) == (True, 36, 0)
    assert found.problems == [f"{tmp_path}/shards/b.tar/x.png: not an image, damaged, or in an unsupported format"]
    found = prepare(config)
    assert (found.prepared, found.cached, len(found.problems)) == (0, 36, 1)


def test_rooms_are_prepared_and_other_tasks_have_nothing_to_prepare(tmp_path: Path) -> None:
    settings = ["data.synthetic_scenes=3", "data.synthetic_points=1000", f"data.cache_dir={tmp_path}"]
    config = load_config("debug_local", [parse_override(text) for text in settings])
    found = prepare(config, num_workers=1)
    assert (found.needed, found.prepared, found.problems) == (True, 3, [])
    found = prepare(load_config("smoke_qr"))
    assert (found.needed, found.prepared) == (False, 0)


def test_a_scene_that_does_not_fit_into_memory_does_not_end_the_others(tmp_path: Path) -> None:
    rooms = [Room(0, index, num_points) for index, num_points in enumerate((1000, 10**15, 1000))]
    found = [*preparation.prepare_in_processes(rooms, {}, SETTINGS, tmp_path, 1)]
    assert sorted(found) == ["prepared", "prepared", "room 1: does not fit into free memory"]


def killed_by_one(source: Path, **_: object) -> str:
    """Stands for `_prepare` in a process that lacks memory for one scene."""
    if source.name == "scan1.npz":
        os.kill(os.getpid(), signal.SIGKILL)
    return preparation.PREPARED


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_a_process_that_dies_is_blamed_on_its_scene_alone(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_prepare", killed_by_one)
    sources = sorted(scans.glob("*.npz"))
    found = [*preparation.prepare_in_processes(sources, {}, SETTINGS, scans, 2)]
    assert found.count(preparation.PREPARED) == 3
    [problem] = [each for each in found if each != preparation.PREPARED]
    assert "scan1.npz: the process that prepared it was killed" in problem


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_after_the_death_of_a_process_only_scenes_at_hand_are_prepared_one_by_one(
    scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_prepare", killed_by_one)
    alone = []
    prepare_alone = preparation._alone
    monkeypatch.setattr(
        preparation, "_alone", lambda pool, job, source: alone.append(source) or prepare_alone(pool, job, source)
    )
    sources = [scans / f"scan{index}.npz" for index in range(40)]
    found = [*preparation.prepare_in_processes(sources, {}, SETTINGS, scans, 1)]
    assert found.count(preparation.PREPARED) == 39
    assert scans / "scan1.npz" in alone
    # Those that were handed out, by the numbers of `concurrent.futures`: running, queued for a process, and ours.
    assert len(alone) <= 4


def threads_of(_: Path, *, num_threads: int, **__: object) -> str:
    return f"{num_threads} threads"


@pytest.mark.parametrize(("workers", "threads"), [(2, 4), (3, 2), (9, 1)])
def test_processes_divide_the_processors_among_themselves(
    workers: int, threads: int, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "usable_processors", lambda: 8)
    monkeypatch.setattr(preparation, "_prepare", threads_of)
    assert [*preparation.prepare_in_processes([scans], {}, SETTINGS, scans, workers)] == [f"{threads} threads"]


def scenes_in(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("scene-*")}


def test_processes_of_srun_prepare_every_scene_once(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("debug_local", [parse_override(text) for text in configured(scans)])
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_train_scenes": None})})
    cache, results = scans.parent / "cache", []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    for rank in range(2):
        before = scenes_in(cache)
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        monkeypatch.setenv("SLURM_LOCALID", "0")
        results.append(prepare(config, num_workers=1))
        assert len(scenes_in(cache) - before) == results[-1].prepared > 0
        assert (results[-1].cached, results[-1].processes) == (0, 2)
    assert sum(result.prepared for result in results) == 4
    assert sum(len(result.problems) for result in results) == 1


class Interrupting(Silent):
    """Stands for Ctrl-C after the first scene."""

    @contextmanager
    def phase(self, *_: object, **__: object) -> Iterator[Phase]:
        yield self  # type: ignore[misc]

    def advance(self, *_: object, **__: object) -> None:
        raise KeyboardInterrupt


def test_a_stopped_preparation_says_what_is_done_and_leaves_nothing_behind(tmp_path: Path) -> None:
    settings = ["data.synthetic_scenes=6", "data.synthetic_points=3000", f"data.cache_dir={tmp_path}"]
    config = load_config("debug_local", [parse_override(text) for text in settings])
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_train_scenes": None})})
    with pytest.raises(StoppedError, match=r"Stopped: 1 of \d scenes are prepared") as caught:
        prepare(config, num_workers=2, progress=Interrupting())
    assert caught.value.exit_code == 130
    assert "same command" in caught.value.hint
    assert active_children() == []
    assert {path.suffix for path in tmp_path.iterdir()} == {".arrays", ".txt"}


def test_a_cache_that_cannot_be_written_ends_the_preparation_at_once(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    settings = ["data.synthetic_scenes=3", "data.synthetic_points=1000", f"data.cache_dir={tmp_path / 'cache'}"]
    with pytest.raises(DiskError, match="cannot be written"):
        prepare(load_config("debug_local", [parse_override(text) for text in settings]), num_workers=1)
    assert active_children() == []
