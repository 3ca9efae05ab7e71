"""Batches arrive from a worker unchanged, in one file that is then removed, and errors arrive as errors."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.handover import Handover, shared_folder
from dbbd_cli.data.loader import BatchLoader, Key

IN_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Inner:
    index: torch.Tensor
    again: torch.Tensor
    sizes: tuple[int, int]


class Batch(NamedTuple):
    pixels: torch.Tensor
    labels: torch.Tensor | None
    inner: tuple[Inner, ...]
    more: dict[str, list[Any]]
    epoch: torch.Tensor


def batch() -> Batch:
    buffer = torch.arange(40)
    return Batch(
        pixels=torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4).transpose(1, 2),
        labels=None,
        inner=(Inner(buffer[3:7], buffer[20:], (1, 2)),),
        more={"values": [torch.tensor([0.5, -0.0, torch.nan]), torch.tensor([True, False]), "text"]},
        epoch=torch.tensor(7),
    )


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert found.stride() == expected.stride()
        assert torch.equal(torch.nan_to_num(found), torch.nan_to_num(expected))
        return
    assert type(found) is type(expected)
    if isinstance(expected, Inner):
        found, expected = vars(found), vars(expected)
    if isinstance(expected, dict):
        found, expected = [*found, *found.values()], [*expected, *expected.values()]
    if isinstance(expected, (tuple, list)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


@pytest.fixture
def sending(tmp_path: Path) -> Handover:
    (tmp_path / "batches").mkdir()
    return Handover(tmp_path / "batches", num_workers=2, num_batches=100)


def received(sent: object) -> Any:
    """Return what arrives in the main process."""
    return pickle.loads(pickle.dumps(sent))


def test_a_batch_arrives_unchanged_and_its_file_is_removed(sending: Handover) -> None:
    sent = sending(batch())
    assert len(list(sending.folder.iterdir())) == 1
    found = received(sent)
    assert_equal(found, batch())
    assert list(sending.folder.iterdir()) == []
    inner = found.inner[0]
    # Views of one tensor share its storage again: it is copied to a GPU once.
    assert inner.index.untyped_storage().data_ptr() == inner.again.untyped_storage().data_ptr()
    assert inner.index.untyped_storage().nbytes() == 40 * 8
    inner.index[0] = 100  # it is writable
    assert inner.index.tolist() == [100, 4, 5, 6]


def test_the_message_itself_is_small(sending: Handover) -> None:
    message = pickle.dumps(sending(batch()._replace(pixels=torch.zeros(1_000_000, dtype=torch.uint8))))
    assert len(message) < 4096


def test_values_without_tensors_are_sent_unchanged(sending: Handover) -> None:
    array, error = np.arange(3), DataError("bad")
    assert sending(array) is array
    assert sending(error) is error
    assert_equal(received(sending({"a": torch.ones(2), "b": 1})), {"a": torch.ones(2), "b": 1})
    assert sending(torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize(("size", "fitting"), [(100, "data.num_workers=1 fits, and 0"), (200, "data.num_workers=0")])
def test_too_little_shared_memory_is_an_error_at_the_first_batch(size: int, fitting: str, sending: Handover) -> None:
    sending.free_bytes = 599_999
    assert len(received(sending(torch.zeros(99_968, dtype=torch.uint8)))) == 99_968
    few = Handover(sending.folder, num_workers=2, num_batches=2)
    few.free_bytes = 599_999
    assert len(received(few(torch.zeros(200_000, dtype=torch.uint8)))) == 200_000
    sending = Handover(sending.folder, num_workers=2, num_batches=100)
    sending.free_bytes = 599_999
    error = sending(torch.zeros(size * 1000, dtype=torch.uint8))
    assert isinstance(error, DataError)
    needed = 6 * size / 1000
    assert error.message.startswith(f"{sending.folder.parent} has 0.6 MB free, and batches of {size / 1000:.1f} MB")
    assert error.message.endswith(f"from 2 data workers need {needed:.1f} MB")
    assert fitting in error.hint


def test_all_batches_of_a_step_must_fit(tmp_path: Path) -> None:
    for in_use, fits in ((1, True), (2, False)):
        sending = Handover(tmp_path / "batches", num_workers=2, num_batches=100, in_use=in_use)
        sending.folder.mkdir(exist_ok=True)
        sending.room = 6 * 10_048
        answer = sending(torch.zeros(10_000, dtype=torch.uint8))
        assert isinstance(answer, DataError) != fits


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_a_batch_that_cannot_be_written_is_an_error(
    number: int, sending: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", fail)
    error = sending(batch())
    monkeypatch.undo()
    assert isinstance(error, DataError)
    assert os.strerror(number) in error.message
    assert ("ulimit -n" if number == errno.EMFILE else "MB free") in error.message + error.hint
    assert list(sending.folder.iterdir()) == []


def test_a_folder_that_was_removed_is_created_again(sending: Handover) -> None:
    sending.folder.rmdir()
    assert_equal(received(sending(batch())), batch())


def test_a_missing_file_is_an_error(sending: Handover) -> None:
    sent = sending(batch())
    [file] = sending.folder.iterdir()
    file.unlink()
    assert isinstance(received(sent), FileNotFoundError)


class Tensors:
    """A dataset of the keys themselves."""

    def __len__(self) -> int:
        return 20

    def __getitems__(self, keys: list[Key]) -> torch.Tensor:
        return torch.tensor(keys)


@pytest.fixture
def loader() -> Iterator[BatchLoader]:
    loader = BatchLoader(Tensors(), batch_size=4, shuffle=False, seed=5, num_workers=2, worker_timeout=60)
    yield loader
    loader.close()


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is specific to Linux")
def test_batches_whose_files_were_removed_are_made_in_the_main_process(loader: BatchLoader) -> None:
    assert shared_folder() == IN_MEMORY
    batches = loader.batches(1)
    found = [next(batches)]
    (folder,) = IN_MEMORY.glob(f"dbbd.{os.getpid()}-*")
    elsewhere = folder.with_name(f"{folder.name}-moved")
    folder.rename(elsewhere)  # atomically, as if it had been removed
    try:
        found += batches
    finally:
        elsewhere.rename(folder)
    assert [tensor[:, 1].tolist() for tensor in found] == [list(range(start, start + 4)) for start in range(0, 20, 4)]
    assert_equal(found, [Tensors().__getitems__([(1, index) for index in tensor[:, 1].tolist()]) for tensor in found])
    loader.close()
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is specific to Linux")
def test_a_program_that_does_not_close_its_loader_leaves_no_file() -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from unit.data.test_handover import IN_MEMORY, BatchLoader, Tensors
loader = BatchLoader(Tensors(), batch_size=4, shuffle=False, seed=5, num_workers=1)
next(loader.batches(1))
print(*IN_MEMORY.glob(f"dbbd.{{os.getpid()}}-*"), flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    folder = Path(ended.stdout.strip())
    assert folder.parent == IN_MEMORY
    assert not folder.exists()
