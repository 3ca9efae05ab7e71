"""Ctrl-C on a real terminal saves, and leaves neither a bar nor a hidden cursor behind."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")


def test_ctrl_c_while_a_bar_is_shown(tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect")
    unwanted = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    settings = (
        "data.image_size=32",
        "data.sample_per_class=40",
        "training.batch_size=4",
        "model.name=mobilenet_v3_small",
    )
    arguments = [word for setting in settings for word in ("--set", setting)]
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "dbbd_cli", "train", "--config", "smoke_qr", "--device", "cpu", "--epochs", "500", *arguments],
        cwd=str(tmp_path),
        env={**environment, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"},
        encoding="utf-8",
        dimensions=(24, 80),
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    terminal.expect(r"Epoch \d+/500 train[^\r\n]*\D[1-9]\d*/\d+")
    terminal.sendintr()
    terminal.expect("Stopped")
    before = terminal.before
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130
    assert re.search(r"dbbd resume runs/\S+", terminal.before)
    erased = before.rpartition("\x1b[2K")[2]
    assert "Epoch" not in erased
    assert erased.rindex("\x1b[?25h") > erased.rfind("\x1b[?25l")
