"""Progress bars show what fits the terminal, vanish when done, and never stop the work."""

from __future__ import annotations

import io
import itertools
import re

import pytest

from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.cli.terminal.progress_bars import BarProgress
from dbbd_cli.cli.terminal.progress_lines import LineProgress


class Terminal(io.TextIOWrapper):
    """A terminal that records what is written to it."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        buffer: io.BytesIO = self.buffer  # type: ignore[assignment]
        return buffer.getvalue().decode(self.encoding)


def last_frame(
    monkeypatch: pytest.MonkeyPatch, width: int, *, done: int = 100, total: int = 219, done_before: int = 0
) -> str:
    """The bar of a phase that did eight batches a second, on a terminal of some width."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    now = 0.0
    terminal = Terminal()
    progress = BarProgress(terminal, clock=lambda: now)
    with progress.phase("Epoch 1/10 train", total, done=done_before, sample_unit="images") as phase:
        for count in [(done - done_before) // 2] * 2:
            now += count / 8
            phase.advance(count, samples=32 * count, loss=0.69314, accuracy=0.4375)
        frames = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", terminal.text())
    return re.split(r"[\r\n]+", frames.rstrip())[-1]


@pytest.mark.parametrize(
    ("width", "numbers"),
    [
        (120, "100/219  loss 0.6931  acc 43.75%  256 images/s  0:15 left"),
        (80, "100/219  loss 0.6931  acc 43.75%  256/s  0:15 left"),
        (76, "100/219  loss 0.6931  acc 43.75%  0:15 left"),
        (62, "100/219  loss 0.6931  0:15 left"),
        (54, "100/219  loss 0.6931  0:15 left"),
        (40, "100/219  0:15 left"),
        (36, "100/219"),
    ],
)
def test_narrow_terminals_lose_whole_numbers_not_digits(
    width: int, numbers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = last_frame(monkeypatch, width)
    bar = shown.removeprefix("Epoch 1/10 train").removesuffix(numbers)
    assert set(bar) <= set(" ━╸╺")
    assert ("━━━" in bar) is (width >= 60)
    assert len(shown.rstrip()) <= width - 3  # so that the ^C of the terminal does not wrap


@pytest.mark.parametrize("width", range(30, 130, 3))
def test_a_bar_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = last_frame(monkeypatch, width)
    assert len(shown.rstrip()) <= width - 3  # so that the ^C of the terminal does not wrap
    assert "…" not in shown


def test_a_resumed_phase_starts_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    # Speed and time left count the 20 batches of this process, not the 100 before.
    assert last_frame(monkeypatch, 120, done=120, done_before=100).endswith(
        "120/219  loss 0.6931  acc 43.75%  256 images/s  0:13 left"
    )


def test_an_empty_phase_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0/0" in last_frame(monkeypatch, 80, done=0, total=0)


def test_the_bar_vanishes_and_messages_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    progress = BarProgress(terminal)
    with progress.phase("train", 3) as phase:
        for _ in range(3):
            phase.advance(samples=1, loss=0.5)
        progress.line("a [red]line[/red] \x1b[2J")
    progress.facts("Run", {"Data": "[b]x[/b]"})
    shown = terminal.text()
    assert "a [red]line[/red] \\x1b[2J" in shown
    assert "[b]x[/b]" in shown
    after_the_bar = shown[shown.rindex("train") :]
    assert "\x1b[2K" in after_the_bar  # erased
    assert "\x1b[?25h" in after_the_bar  # the cursor is back


@pytest.mark.parametrize("kind", [BarProgress, LineProgress])
def test_messages_are_wrapped_between_words(
    kind: type[BarProgress | LineProgress], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setenv("LINES", "10")
    terminal = Terminal()
    progress = kind(terminal)
    progress.line("All of the 40 images are used.")
    progress.warn("3 images were left out.")
    plain = re.sub("\x1b[^m]*m", "", terminal.text())
    assert plain.split("\n") == ["All of the 40 images are", "used.", "Warning: 3 images were", "left out.", ""]


def test_the_cursor_is_restored_after_an_error() -> None:
    terminal = Terminal()
    progress = BarProgress(terminal)
    with pytest.raises(ValueError, match="x"), progress.phase("outer", 3), progress.phase("inner", 3):
        raise ValueError("x")
    assert terminal.text().rindex("\x1b[?25h") > terminal.text().rindex("\x1b[?25l")


def test_a_closed_terminal_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    progress = BarProgress(terminal, clock=itertools.count().__next__)

    def fail(text: str) -> int:
        raise BrokenPipeError

    with progress.phase("train", 3) as phase:
        monkeypatch.setattr(terminal, "write", fail)
        phase.advance()
        progress.line("a line")
    progress.warn("careful")


def test_at_most_ten_frames_a_second() -> None:
    now = 0.0
    terminal = Terminal()
    progress = BarProgress(terminal, clock=lambda: now)
    with progress.phase("train", 10_000) as phase:
        for _ in range(1000):
            now += 0.001
            phase.advance()
    assert 8 <= terminal.text().count("train") <= 13


def test_ascii_terminal() -> None:
    terminal = Terminal(encoding="ascii")
    progress = BarProgress(terminal)
    with progress.phase("train", 2) as phase:
        phase.advance()
    assert "----" in terminal.text()


def test_no_color_codes_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    progress = BarProgress(terminal)
    with progress.phase("train", 2) as phase:
        phase.advance()
    progress.warn("careful")
    assert not re.search(r"\x1b\[[0-9;]*m", terminal.text())


@pytest.mark.parametrize(
    ("style", "variables", "bars"),
    [
        ("auto", {}, True),
        ("auto", {"NO_COLOR": "1"}, False),
        ("auto", {"TERM": "dumb"}, False),
        ("rich", {"NO_COLOR": "1"}, True),
        ("rich", {"TERM": "dumb"}, False),
        ("plain", {}, False),
        ("none", {}, False),
    ],
)
def test_choice_on_a_terminal(
    style: str, variables: dict[str, str], bars: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", Terminal())
    output = Output(as_json=False, style=style, quiet=False)
    assert isinstance(output.progress, BarProgress) is bars


@pytest.mark.parametrize("style", ["auto", "rich", "plain", "none"])
def test_no_bars_in_a_file(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(Output(as_json=False, style=style, quiet=False).progress, LineProgress)
