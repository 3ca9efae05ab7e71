"""`dbbd predict` streams: results before the input ends, Ctrl-C in between, and an end when nobody reads any more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from real_program import environment

from dbbd_cli.services.train import train
from dbbd_cli.tasks.configs import config_from_mapping


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {
        "task": "url_classification",
        "run": {"runs_dir": str(tmp_path_factory.mktemp("runs")), "device": "cpu", "plots": False},
        "data": {"sample_per_class": 20},
        "model": {"hash_bits": 10},
        "training": {"epochs": 1, "batch_size": 16},
    }
    return train(config_from_mapping(settings, origin="test")).run


def start(run: Path, cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dbbd_cli", "predict", str(run), "-", "--json", "--csv", "out.csv"],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_results_come_while_the_input_is_open_and_ctrl_c_keeps_them(run: Path, tmp_path: Path) -> None:
    process = start(run, tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    for url in ("a.example", "http://b.example/x", "no dot"):
        process.stdin.write(url.encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["input"] == url
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    _, errors = process.communicate()
    assert b"Stopped." in errors
    assert b"Traceback" not in errors
    assert [line.split(",")[1] for line in (tmp_path / "out.csv").read_text().splitlines()] == [
        "status", "judged", "judged", "skipped",
    ]  # fmt: skip


def test_an_endless_stream_ends_when_nobody_reads_the_results(run: Path, tmp_path: Path) -> None:
    shell = '"$1" -c "while True: print(\'a.example\')" 2>/dev/null | "$1" -m dbbd_cli predict "$2" - --json | head -2'
    ended = subprocess.run(
        ["bash", "-c", f"{shell}; exit ${{PIPESTATUS[1]}}", "bash", sys.executable, str(run)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 2
    assert b"Traceback" not in ended.stderr
