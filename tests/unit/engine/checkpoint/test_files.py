"""Checkpoints survive any interruption of a save, and anything that is not an intact checkpoint is refused."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dbbd_cli.core.errors import CheckpointError, DiskError
from dbbd_cli.core.temporary import temporary_path
from dbbd_cli.engine.checkpoint import files as module
from dbbd_cli.engine.checkpoint.files import BEST, NEWEST, checkpoint_names, disk_error, load_checkpoint, previous_name
from dbbd_cli.engine.checkpoint.files import save_checkpoint as save
from dbbd_cli.model import digest as digest
from dbbd_cli.model.digest import save_with_digest

PREVIOUS = previous_name(1)


def content(number: int) -> dict[str, Any]:
    parts = ("optimizer", "learning_rate", "scaler", "state", "random", "config", "runtime", "splits", "proof")
    return {"module": {"weight": torch.full((50,), float(number))}, **{part: {"n": number} for part in parts}}


def save_checkpoint(state: dict[str, Any], folder: Path, *, best: bool = False, keep: int = 2) -> None:
    save(state, folder, best=best, keep=keep)


def number_in(path: Path) -> int:
    return int(load_checkpoint(path)["state"]["n"])


def test_newest_previous_and_best_follow_one_another(tmp_path: Path) -> None:
    save_checkpoint(content(1), tmp_path, best=True)
    assert number_in(tmp_path / NEWEST) == number_in(tmp_path / BEST) == 1
    assert not (tmp_path / PREVIOUS).exists()
    save_checkpoint(content(2), tmp_path, best=False)
    save_checkpoint(content(3), tmp_path, best=False)
    assert [number_in(tmp_path / name) for name in (NEWEST, PREVIOUS, BEST)] == [3, 2, 1]
    assert torch.equal(load_checkpoint(tmp_path / NEWEST)["module"]["weight"], torch.full((50,), 3.0))
    assert {path.name for path in tmp_path.iterdir()} == {NEWEST, PREVIOUS, BEST}


def test_as_many_are_kept_as_configured(tmp_path: Path) -> None:
    for number in range(1, 7):
        save_checkpoint(content(number), tmp_path, best=number == 1, keep=4)
    names = [NEWEST, "ckpt.previous.pth", "ckpt.previous2.pth", "ckpt.previous3.pth", BEST]
    assert checkpoint_names(tmp_path) == names
    assert [number_in(tmp_path / name) for name in names] == [6, 5, 4, 3, 1]
    (tmp_path / "ckpt.previous.pth").unlink()  # as an interrupted save would leave them
    assert checkpoint_names(tmp_path) == [names[0], *names[2:]]
    save_checkpoint(content(7), tmp_path, keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {NEWEST, PREVIOUS, BEST}
    save_checkpoint(content(8), tmp_path, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {NEWEST, BEST}
    assert number_in(tmp_path / NEWEST) == 8


def test_older_checkpoints_stay_if_the_new_one_reads_back_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        save_checkpoint(content(number), tmp_path)

    def spoil(state: dict[str, Any], path: Path, *_: object) -> None:
        save_with_digest(state, path)
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(module, "save_with_digest", spoil)
    with pytest.raises(DiskError, match="reads back differently"):
        save_checkpoint(content(3), tmp_path)
    assert {path.name: number_in(path) for path in tmp_path.iterdir()} == {NEWEST: 2, PREVIOUS: 1}


def test_file_systems_without_hard_links_get_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(module.os, "link", refuse)
    for number in (1, 2):
        save_checkpoint(content(number), tmp_path, best=True)
    assert [number_in(tmp_path / name) for name in (NEWEST, PREVIOUS, BEST)] == [2, 1, 2]


def test_every_existing_checkpoint_is_intact_wherever_a_save_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulates the end of the process before each rename of a save."""

    class KilledError(BaseException):
        pass

    rename, seen = Path.replace, set()
    for fatal in range(20):
        folder = tmp_path / str(fatal)
        folder.mkdir()
        save_checkpoint(content(1), folder, best=True)
        save_checkpoint(content(2), folder, best=False)
        left = [fatal]

        def replace_until(source: Any, target: Any, left: list[int] = left) -> None:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            rename(source, target)

        monkeypatch.setattr(Path, "replace", replace_until)
        try:
            save_checkpoint(content(3), folder, best=True)
            finished = True
        except KilledError:
            finished = False
        monkeypatch.setattr(Path, "replace", rename)
        numbers = tuple(number_in(folder / name) for name in (NEWEST, PREVIOUS, BEST))
        seen.add(numbers)
        save_checkpoint(content(4), folder, best=False)  # and the next save works
        assert number_in(folder / NEWEST) == 4
        assert number_in(folder / PREVIOUS) == numbers[0]
        if finished:
            break
    assert finished
    assert seen == {(2, 1, 1), (2, 1, 3), (2, 2, 3), (3, 2, 3)}


@pytest.mark.parametrize("position", [0, 100, 700, -78, -77, -76, -70, -64, -1])
def test_a_flipped_bit_is_detected(tmp_path: Path, position: int) -> None:
    save_checkpoint(content(1), tmp_path, best=False)
    data = bytearray((tmp_path / NEWEST).read_bytes())
    data[position] ^= 1
    (tmp_path / NEWEST).write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged: "):
        load_checkpoint(tmp_path / NEWEST)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:-76]])
def test_truncation_and_appended_data_are_detected(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    save_checkpoint(content(1), tmp_path, best=False)
    (tmp_path / NEWEST).write_bytes(change((tmp_path / NEWEST).read_bytes()))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / NEWEST)


def test_other_programs_can_read_the_file(tmp_path: Path) -> None:
    save_checkpoint(content(1), tmp_path)
    with zipfile.ZipFile(tmp_path / NEWEST) as archive:
        assert archive.testzip() is None
        comment = archive.comment.decode()
    data = (tmp_path / NEWEST).read_bytes()
    assert comment == f"dbbd sha256 {hashlib.sha256(data[: -len(comment) - 2]).hexdigest()}"
    assert torch.equal(torch.load(tmp_path / NEWEST, weights_only=True)["module"]["weight"], torch.full((50,), 1.0))


def test_a_full_disk_leaves_the_old_checkpoint_and_no_stray_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(content(1), tmp_path, best=False)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(DiskError, match=r"No space left on device \(.* MB is free, and a checkpoint needs"):
        save_checkpoint(content(2), tmp_path, best=False)
    monkeypatch.undo()
    assert number_in(tmp_path / NEWEST) == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_disk_errors_name_the_limit(tmp_path: Path) -> None:
    def told(error: OSError, needed: int = 1) -> str:
        found = disk_error(error, tmp_path, needed)
        return f"{found.message}; {found.hint}"

    assert "events.1 cannot be written" in told(OSError(errno.EACCES, "no", os.fsencode(tmp_path / "events.1")))
    assert "config.yaml cannot be written" in told(OSError(errno.EISDIR, "no", "config.yaml.tmp", None, "config.yaml"))
    temporary = str(temporary_path(tmp_path / NEWEST))  # users know the file by its final name
    assert told(OSError(errno.EMFILE, "no", temporary)).startswith(f"{NEWEST} cannot be written")
    assert "a file of the run cannot" in told(OSError(errno.EIO, "no", 3))
    assert "the number of files" in told(OSError(errno.ENOSPC, "full"))
    assert "the number of files" not in told(OSError(errno.ENOSPC, "full"), needed=10**18)
    assert "ulimit -f" in told(OSError(errno.EFBIG, "large"))
    tmp_path.rmdir()
    assert "no longer exists" in told(OSError(errno.ENOENT, "gone"))


def test_an_interrupt_while_writing_stays_an_interrupt_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(content(1), tmp_path)
    left = [0]

    class InterruptedFile(io.BufferedWriter):
        def write(self, data: Any) -> int:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return super().write(data)

    def open_file(path: Path, mode: str = "r", **options: Any) -> Any:
        return InterruptedFile(io.FileIO(path, "w")) if mode == "wb" else original(path, mode, **options)

    original = Path.open
    monkeypatch.setattr(Path, "open", open_file)
    for fatal in range(1, 1000):
        left[0] = fatal
        try:
            save_checkpoint(content(2), tmp_path)
            break
        except KeyboardInterrupt:
            assert {path.name: number_in(path) for path in tmp_path.iterdir()} == {NEWEST: 1}
    assert fatal > 10
    assert number_in(tmp_path / NEWEST) == 2


def test_code_in_a_file_is_not_run_and_is_named(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    torch.save({"format": 1, "module": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"refers to the code of (builtins\.)?getattr,"):
        load_checkpoint(tmp_path / "evil.pth")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "evil.pth")
    assert not marker.exists()


def test_files_that_are_not_checkpoints_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "x.pth")
    for data in (b"", b"text", b"PK\x03\x04 cut"):
        (tmp_path / "x.pth").write_bytes(data)
        with pytest.raises(CheckpointError, match="is not a valid file of tensors"):
            load_checkpoint(tmp_path / "x.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of dbbd"):
        load_checkpoint(tmp_path / "x.pth")
    torch.save({**content(1), "format": 99}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="has format 99"):
        load_checkpoint(tmp_path / "x.pth")
