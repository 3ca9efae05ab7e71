"""What tests of runs share: progress that keeps what it shows or presses Ctrl-C, and the comparison of two runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dbbd_cli.config.load import Override
from dbbd_cli.core.progress import Phase, Silent
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.services.smoke import same


class Shown(Silent):
    """Keeps everything that is shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.headers: list[str] = []
        self.rows: dict[str, str] = {}

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        self.headers.append(title)
        self.rows.update(rows)

    def line(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class PressCtrlC(Silent):
    """Presses Ctrl-C after some updates of the phases whose title ends in a given word."""

    def __init__(self, word: str, after: int) -> None:
        self.word = word
        self.left = after

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        owner = self

        class Pressing:
            def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
                if title.endswith(owner.word):
                    owner.left -= 1
                    if owner.left == 0:
                        signal.raise_signal(signal.SIGINT)

        yield Pressing()


def epochs(number: int) -> list[Override]:
    return [Override("training.epochs", number, "--epochs")]


def assert_same_run(one: Path, two: Path) -> None:
    a, b = load_checkpoint(one / "ckpt.pth"), load_checkpoint(two / "ckpt.pth")
    for part in ("module", "optimizer", "learning_rate", "random"):
        assert same(a[part], b[part], exact=True), part
    assert a["state"]["history"] == b["state"]["history"]
    assert (one / "history.jsonl").read_bytes() == (two / "history.jsonl").read_bytes()
    best_one, best_two = load_checkpoint(one / "best_model.pth"), load_checkpoint(two / "best_model.pth")
    assert same(best_one["module"], best_two["module"], exact=True)
