"""Checkpoints: for how long saving keeps training from going on."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loop import Loop
from measure import Measured, median, spread

from dbbd_cli.engine.checkpoint import NEWEST, load_checkpoint

SAVES = 3
LEAST_BYTES = 600_000_000
"""Weights of qr_cnn and the two moments of AdamW: 618 MB."""
TIME_LIMIT_SECONDS = 120
LOOK_EVERY_SECONDS = 0.005


def pause(repeat: int) -> Measured:
    """Seconds for which a save of 618 MB stops training; the first save, which sets up memory, is not counted.

    After each save comes a step, as in training. Meanwhile another thread looks for the new file.
    """
    settings: dict[str, object] = {
        "run.device": "cpu",
        "data.sample_per_class": 120,
        "data.num_workers": 0,
    }
    loop = Loop("qr_cnn", settings, Path(tempfile.mkdtemp()))
    loop.step()
    newest = loop.folder / NEWEST
    pauses, until_there, steps = [], [], []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(1 + max(SAVES, min(repeat, 5))):
            start = time.perf_counter()
            there = pool.submit(_seconds_until_new, newest, _identity(newest), start)
            loop.trainer.save(loop.folder)
            pauses.append(time.perf_counter() - start)
            steps.append(loop.step())
            until_there.append(there.result())
    assert newest.stat().st_size > LEAST_BYTES
    assert load_checkpoint(newest)["state"]["step"] == loop.trainer.state.step - 1
    pauses, until_there = pauses[1:], until_there[1:]
    return Measured(
        seconds=median(pauses),
        score=median(pauses),
        spread=spread(pauses),
        details={
            "seconds_until_the_file_is_there": median(until_there),
            "seconds_of_a_step_beside_it": median(steps[1:]),
            "megabytes": newest.stat().st_size / 1e6,
        },
    )


def _identity(path: Path) -> int:
    """What changes when another file takes the name; 0 where there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _seconds_until_new(path: Path, old: int, start: float) -> float:
    while (now := time.perf_counter()) - start < TIME_LIMIT_SECONDS:
        if _identity(path) != old:
            return now - start
        time.sleep(LOOK_EVERY_SECONDS)
    raise TimeoutError(f"no new {path.name} within {TIME_LIMIT_SECONDS} s")
