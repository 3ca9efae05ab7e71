"""A flipped bit anywhere in a checkpoint is detected, and a run resumes from the newest intact checkpoint."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import Forks
from stored_runs import SHORT, TASKS, StoredRuns, cases, content, saved_steps, unlike

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.engine.checkpoint.files import load_checkpoint

NAMES = ("ckpt.pth", "ckpt.previous.pth", "best_model.pth")


def is_detected(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except CheckpointError:
        return True
    return False


def places(size: int, number: int, random_numbers: random.Random) -> list[int]:
    """Return offsets in a file: half of them anywhere, the others among its first and last thousands of bytes."""
    ranges = [(0, size), (0, size), (0, min(1000, size)), (max(0, size - 3000), size)]
    return [random_numbers.randrange(*ranges[index % len(ranges)]) for index in range(number)]


@pytest.mark.parametrize(
    ("task", "short", "full"),
    cases(
        [("dbbd", 240, 540), ("url_classification", 60, 480)],
        [("image_classification", 15, 480), ("dbbd", 240, 540), ("url_classification", 60, 480)],
    ),
)
def test_a_flipped_bit_anywhere_is_detected(
    task: str,
    short: int,
    full: int,
    stored_runs: StoredRuns,
    tmp_path: Path,
    count: Callable[[int, int], int],
    report: Callable[[str], None],
) -> None:
    run, random_numbers = stored_runs.done(task, 1), random.Random(f"bits of {task}")
    flips, missed = 0, []
    for name in NAMES:
        good = (run / name).read_bytes()
        path = tmp_path / name
        path.write_bytes(good)
        assert not is_detected(path)
        for offset in places(len(good), count(short, full) // len(NAMES), random_numbers):
            bit = random_numbers.randrange(8)
            with path.open("rb+") as file:
                for byte in (good[offset] ^ (1 << bit), good[offset]):
                    file.seek(offset)
                    file.write(bytes([byte]))
                    file.flush()
                    if byte != good[offset] and not is_detected(path):
                        missed.append((name, offset, bit))
            flips += 1
        assert path.read_bytes() == good
        assert not is_detected(path)
    report(f"{task}: {flips - len(missed)} of {flips} flipped bits detected")
    assert missed == []


@pytest.mark.parametrize("task", cases(SHORT, TASKS))
def test_a_file_that_lost_or_gained_bytes_is_detected(
    task: str, stored_runs: StoredRuns, tmp_path: Path, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    good = (stored_runs.done(task, 1) / "ckpt.pth").read_bytes()
    size, random_numbers = len(good), random.Random(f"sizes of {task}")
    lengths = [0, 1, 4, size // 2, size - 78, size - 76, size - 22, size - 2, size - 1]
    lengths += [random_numbers.randrange(size) for _ in range(count(4, 80))]
    damaged = [good[:length] for length in lengths]
    damaged += [good + more for more in (b"\0", b"\n", b"PK\5\6", bytes(4096), good[-100:], good)]
    damaged += [bytes(1) + good, good[1:]]
    blocks = [start for start in range(0, size - 4096, 4096) if any(good[start : start + 4096])]
    for start in random_numbers.sample(blocks, count(2, 20)):
        damaged.append(good[:start] + bytes(4096) + good[start + 4096 :])  # a block that never reached the disk
        damaged.append(good[:start] + good[start + 4096 :])
    path = tmp_path / "ckpt.pth"
    found = 0
    for number, data in enumerate(damaged):
        path.write_bytes(data)
        assert is_detected(path), number
        found += 1
    report(f"{task}: {found} of {len(damaged)} files with bytes lost, added or zeroed detected")


@pytest.mark.parametrize("task", cases(SHORT, TASKS))
def test_a_run_with_a_damaged_checkpoint_resumes_from_the_one_before(
    task: str, stored_runs: StoredRuns, tmp_path: Path, report: Callable[[str], None]
) -> None:
    run = stored_runs.copy(stored_runs.done(task, 1), tmp_path)
    steps = saved_steps(run)
    flip_a_bit(run / "ckpt.pth")
    damaged = (run / "ckpt.pth").read_bytes()
    ended = stored_runs.resume(run, 2)
    assert ended.code == 0, ended.err
    output = " ".join(ended.err.split())
    assert "ckpt.pth is damaged" in output
    assert "ckpt.previous.pth" in output
    assert damaged in content(run).values(), "the damaged checkpoint was deleted"
    assert unlike(run, stored_runs.extended(task, 1, 2)) == []
    report(f"{task}: resumed from step {steps['ckpt.previous.pth']} instead of {steps['ckpt.pth']}, to the same bits")


@pytest.mark.parametrize(
    ("task", "command"),
    cases(
        [("url_classification", "resume"), ("dbbd", "resume"), ("dbbd", "validate"), ("dbbd", "evaluate")],
        [(task, command) for task in TASKS for command in ("resume", "validate", "evaluate")],
    ),
)
def test_a_run_without_an_intact_checkpoint_is_refused_and_left_unchanged(
    task: str, command: str, forks: Forks, stored_runs: StoredRuns, tmp_path: Path
) -> None:
    run = stored_runs.copy(stored_runs.done(task, 1), tmp_path)
    for name in NAMES:
        flip_a_bit(run / name)
    before = content(run)
    ended = forks.dbbd(command, str(run), folder=tmp_path)
    assert ended.code == 4, ended
    assert all(name in ended.err for name in NAMES), ended.err
    assert content(run) == before


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # a hard link may still hold its content
    path.write_bytes(data)
