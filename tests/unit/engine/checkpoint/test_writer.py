"""Checkpoints written in the background are complete, ordered and unaffected by training, and errors surface."""

from __future__ import annotations

import _thread
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dbbd_cli.core.errors import DiskError
from dbbd_cli.engine.checkpoint import files as checkpoint
from dbbd_cli.engine.checkpoint.files import BEST, CONTENT, NEWEST, load_checkpoint, previous_name
from dbbd_cli.engine.checkpoint.writer import CheckpointWriter

LARGE = 3_000_000
"""Values of a tensor that is written in several chunks."""


def state_of(number: int, size: int = 50) -> dict[str, Any]:
    parts: dict[str, Any] = {name: {} for name in CONTENT - {"format"}}
    return {
        **parts,
        "module": OrderedDict(weight=torch.full((size,), float(number)), count=torch.tensor(number)),
        "state": {"n": number, "history": [{"epoch": epoch, "val": {"loss": 0.5}} for epoch in range(number)]},
    }


def number_in(path: Path) -> int:
    state = load_checkpoint(path)
    number = int(state["state"]["n"])
    assert bool((state["module"]["weight"] == number).all())
    assert len(state["state"]["history"]) == number
    return number


def numbers(folder: Path) -> dict[str, int]:
    return {path.name: number_in(path) for path in folder.iterdir()}


@contextmanager
def held(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, Callable[[], None]]]:
    """Block background threads where they call a function of `checkpoint`, until released."""
    reached, released, original = threading.Event(), threading.Event(), getattr(checkpoint, name)

    def call(*arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            reached.set()
            assert released.wait(30)
        return original(*arguments)

    monkeypatch.setattr(checkpoint, name, call)
    try:
        yield reached, released.set
    finally:
        released.set()


def test_the_state_at_the_time_of_the_call_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, state = CheckpointWriter(), state_of(3, LARGE)
    shared = state["module"]["weight"]
    state["module"]["same"] = shared[10:20].view(2, 5)
    state["optimizer"] = {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1}]}
    with writer, held("save_with_digest", monkeypatch) as (reached, release):
        writer.save(state, tmp_path, best=False, keep=2, background=True)
        assert reached.wait(30)
        shared += 1  # as training does
        state["module"]["count"] += 1
        state["optimizer"]["state"][0]["step"] += 1
        state["optimizer"]["param_groups"][0]["lr"] = 0.5
        state["module"]["another"] = torch.zeros(1)
        release()
    assert numbers(tmp_path) == {NEWEST: 3}
    saved = load_checkpoint(tmp_path / NEWEST)
    assert saved["optimizer"] == {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1}]}
    module = saved["module"]
    assert isinstance(module, OrderedDict)
    assert list(module) == ["weight", "count", "same"]
    assert int(module["count"]) == 3
    assert module["same"].shape == (2, 5)
    assert module["same"].untyped_storage().data_ptr() == module["weight"].untyped_storage().data_ptr()


def test_the_memory_of_copies_is_reused(tmp_path: Path) -> None:
    module = nn.Linear(50, 1)
    optimizer = torch.optim.SGD(module.parameters())
    with (writer := CheckpointWriter()):
        writer.reserve(module, optimizer)
        writer.wait()
        memory = writer._memory
        assert memory is not None
        places = {size: [storage.data_ptr() for storage in kept] for size, kept in memory._kept.items()}
        assert sorted(places) == [4, 200]
        for number in (1, 2):
            writer.reserve(nn.Linear(7, 7), optimizer)  # memory is reserved already
            state = {**state_of(number), "module": {"weight": torch.full((50,), float(number))}}
            writer.save(state, tmp_path, best=False, keep=2, background=True)
        writer.wait()
        assert places == {size: [storage.data_ptr() for storage in kept] for size, kept in memory._kept.items()}
    assert writer._memory is None
    assert numbers(tmp_path) == {NEWEST: 2, previous_name(1): 1}


def test_saves_happen_in_order_and_are_complete_at_the_end(tmp_path: Path) -> None:
    with (writer := CheckpointWriter()):
        writer.save(state_of(0, LARGE // 10), tmp_path, best=False, keep=3, background=False)
        for number in range(1, 7):
            writer.save(state_of(number, LARGE // 10), tmp_path, best=number == 4, keep=3, background=True)
            assert number_in(tmp_path / NEWEST) in (number, number - 1)
    assert numbers(tmp_path) == {NEWEST: 6, previous_name(1): 5, previous_name(2): 4, BEST: 4}


def test_a_save_in_the_foreground_waits_and_copies_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = CheckpointWriter()
    outside.save(state_of(1), tmp_path, best=False, keep=1, background=True)
    assert numbers(tmp_path) == {NEWEST: 1}
    assert outside._memory is None
    with (writer := CheckpointWriter()), held("save_with_digest", monkeypatch) as (reached, release):
        writer.save(state_of(2), tmp_path, best=False, keep=1, background=True)
        memory = writer._memory
        assert reached.wait(30)
        threading.Timer(0.05, release).start()
        writer.save(state_of(3), tmp_path, best=False, keep=2, background=False)
        assert numbers(tmp_path) == {NEWEST: 3, previous_name(1): 2}
        assert memory is not None
        assert sum(map(len, memory._kept.values())) == 2, "the third was copied too"


@pytest.mark.parametrize("how", ["check", "wait", "save background", "save", "leave", "leave with an error"])
def test_an_error_is_raised_once_in_the_main_thread(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = CheckpointWriter()
    writer.save(state_of(1), tmp_path, best=True, keep=2, background=False)

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", full)

    def save() -> None:
        with writer:
            writer.save(state_of(2), tmp_path, best=True, keep=2, background=True)
            assert writer._thread is not None
            writer._thread.join(30)
            if how == "check":
                writer.check()
            elif how == "wait":
                writer.wait()
            elif how.startswith("save"):
                writer.save(state_of(3), tmp_path, best=True, keep=2, background=how.endswith("background"))
            elif how == "leave with an error":
                raise ValueError("of a step")
            assert how == "leave", "it was not raised"

    with pytest.raises(DiskError, match=r"No space left on device \(.* MB is free, and a checkpoint needs") as caught:
        save()
    assert caught.value.exit_code == 6
    assert "continue with: " in caught.value.hint
    monkeypatch.undo()
    writer.wait()
    assert numbers(tmp_path) == {NEWEST: 1, BEST: 1}
    with writer:
        writer.save(state_of(3), tmp_path, best=False, keep=2, background=True)
    assert numbers(tmp_path) == {NEWEST: 3, previous_name(1): 1, BEST: 1}


@pytest.mark.parametrize("where", ["save_with_digest", "digest_matches"])
@pytest.mark.parametrize("waiting", [False, True])
def test_ctrl_c_abandons_the_save_in_progress(
    tmp_path: Path, where: str, waiting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = CheckpointWriter()
    writer.save(state_of(1), tmp_path, best=False, keep=2, background=False)
    with held(where, monkeypatch) as (reached, release):

        def interrupt() -> None:
            if waiting:
                _thread.interrupt_main()
            assert writer._abandoned.wait(30)
            release()

        def save() -> None:
            with writer:
                writer.save(state_of(2, LARGE), tmp_path, best=True, keep=2, background=True)
                assert reached.wait(30)
                assert len(list(tmp_path.glob("*.tmp"))) == 1
                threading.Thread(target=interrupt).start()
                if not waiting:
                    raise KeyboardInterrupt
                writer.wait()

        with pytest.raises(KeyboardInterrupt):
            save()
    assert numbers(tmp_path) == {NEWEST: 1}
    assert "checkpoint" not in [thread.name for thread in threading.enumerate()]


def test_without_memory_for_a_copy_training_waits_for_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    writer, state, module = CheckpointWriter(), state_of(3), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters())
    with writer:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", fail)
            writer.reserve(module, optimizer)
            writer.wait()
            writer.save(state, tmp_path, best=False, keep=1, background=True)
        assert numbers(tmp_path) == {NEWEST: 3}
        writer.save(state_of(4), tmp_path, best=False, keep=1, background=True)
    assert numbers(tmp_path) == {NEWEST: 4}
