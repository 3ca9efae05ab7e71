"""Make the pictures of the README from a real run: `python docs/make_terminal_picture.py`.

Trains on synthetic data in a pseudo-terminal, presses Ctrl-C, resumes and evaluates. `images/session.svg` shows the
terminal, with long tables shortened, and with the bar as it was when Ctrl-C was pressed. `images/training_history.png`
is the figure that the run made.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pexpect
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

IMAGES = Path(__file__).parent / "images"
COLUMNS = 100
TRAIN = "dbbd train --config smoke_qr --epochs 5 --set data.sample_per_class=1000"
INTERRUPTED = re.compile(r"Epoch 2/\d+ train[^\r\n]*\D[3-7]\d/\d+")
"""The bar at which Ctrl-C is pressed."""
DOTS = Text("  ⋮", style="dim")
THEME = TerminalTheme(
    (13, 17, 23),
    (201, 209, 217),
    [
        (72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34),
        (88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196),
    ],
)  # fmt: skip
SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
    <style>
    .{unique_id}-title {{
        font-family: ui-sans-serif, system-ui, "DejaVu Sans", sans-serif;
        font-size: 17px;
    }}
    .{unique_id}-matrix {{
        font-family: ui-monospace, SFMono-Regular, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
        font-size: {char_height}px;
        line-height: {line_height}px;
    }}
    {styles}
    </style>
    <defs>
    <clipPath id="{unique_id}-clip-terminal">
      <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
    </clipPath>
    {lines}
    </defs>
    {chrome}
    <g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
    {backgrounds}
    <g class="{unique_id}-matrix">
    {matrix}
    </g>
    </g>
</svg>
"""
"""Rich's template without its fonts, which would be loaded from the network."""


def main() -> None:
    """Run the session and write both pictures."""
    with tempfile.TemporaryDirectory() as folder:
        shown = [*command(TRAIN), *interrupted(run(TRAIN, folder, stop_at=INTERRUPTED)), Text()]
        (path,) = (Path(folder) / "runs").iterdir()
        resume = f"dbbd resume runs/{path.name}"
        rows = screen(run(resume, folder))
        shown += [*command(resume), *part(rows, "Continuing", "Training finished"), DOTS, Text()]
        evaluate = f"dbbd evaluate runs/{path.name}"
        rows = screen(run(evaluate, folder))
        shown += [*command(evaluate), *part(rows, "Evaluation on", "  Loss"), DOTS]
        shown += [*part(rows, "Confusion matrix", "Efficiency"), Text()]
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / "session.svg").write_text(svg(shown), encoding="utf-8")
        shutil.copyfile(path / "training_history.png", IMAGES / "training_history.png")


def run(line: str, folder: str, stop_at: re.Pattern[str] | None = None) -> str:
    """What a command writes to a terminal; Ctrl-C is pressed after `stop_at`, and a NUL marks the place.

    Raises:
        RuntimeError: the command failed.
    """
    unwanted = ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment |= {"TERM": "xterm-256color", "DBBD_CACHE_DIR": str(Path(folder) / "cache")}
    child = pexpect.spawn(
        sys.executable,
        ["-m", "dbbd_cli", *line.split()[1:]],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        encoding="utf-8",
        dimensions=(50, COLUMNS),
        timeout=900,
        # A shell that starts this script in the background makes it ignore Ctrl-C, which the command would inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    written = ""
    if stop_at is not None:
        child.expect(stop_at)
        written = child.before + child.after
        child.sendintr()
        child.expect_exact("^C")
        written += child.before + child.after + "\0"
    child.expect(pexpect.EOF)
    written += child.before
    child.close()
    if child.exitstatus != (0 if stop_at is None else 130):
        raise RuntimeError(f"{line} ended with exit code {child.exitstatus}:\n{written[-2000:]}")
    return written


def screen(written: str) -> list[Text]:
    """The rows that a terminal shows after this was written to it: only what rich writes is understood."""
    rows, row = [""], 0
    for code in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", written.replace("\0", "")):
        if code == "\n":
            row += 1
            rows += [""] * (row == len(rows))
        elif up := re.fullmatch(r"\x1b\[(\d+)A", code):
            row -= int(up[1])
        elif code == "\x1b[2K":
            rows[row] = ""
        elif code != "\r" and not code.startswith("\x1b[?"):
            rows[row] += code
    return [Text.from_ansi(text) for text in rows]


def interrupted(written: str) -> list[Text]:
    """The rows of an interrupted command, with the bar as it was when Ctrl-C was pressed."""
    before = screen(written.partition("\0")[0])
    after = screen(written)
    return [*before, *(row for row in after[len(before) - 1 :] if row.plain.strip())]


def part(rows: list[Text], first: str, end: str) -> list[Text]:
    """The rows from the one that starts with `first` up to the one that starts with `end`."""
    start, stop = (next(n for n, row in enumerate(rows) if row.plain.startswith(text)) for text in (first, end))
    while not rows[stop - 1].plain.strip():
        stop -= 1
    return rows[start:stop]


def command(line: str) -> list[Text]:
    """A command as it was typed."""
    return [Text.assemble(("$ ", "bold green"), (line, "bold"))]


def svg(rows: list[Text]) -> str:
    """The rows as a picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False, emoji=False)
    for row in rows:
        console.print(row, soft_wrap=True)
    return console.export_svg(title="dbbd", theme=THEME, code_format=SVG, unique_id="dbbd")


if __name__ == "__main__":
    main()
