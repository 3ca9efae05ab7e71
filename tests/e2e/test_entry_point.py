"""The program works as users run it: in its own process, with real files and real signals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from real_program import REPOSITORY, environment, one_after_another

SMALL = [
    *("--set", "data.image_size=32", "--set", "data.sample_per_class=40", "--set", "training.batch_size=8"),
    *("--device", "cpu"),
]


def test_from_training_to_plot_as_from_jupyter_without_a_home_folder(
    picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.missing")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.delenv("DBBD_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    root = picture_folder(count=12)
    (trained, *outputs), told = one_after_another(
        [
            *("train", "--config", "qr_cnn", "--set", "data.source=folder", "--set", f"data.path={root}"),
            *(*SMALL, "--epochs", "1", "--json"),
        ],
        ["resume", "RUN", "--epochs", "2", "--json"],
        ["validate", "RUN", "--json"],
        ["evaluate", "RUN"],
        ["plot", "RUN", "--format", "html", "--out", "figures"],
        cwd=tmp_path,
    )
    result = json.loads(trained)
    run = tmp_path / result["run"]
    assert result["facts"]["samples"] == {"train": 24, "val": 6, "test": 6}
    assert (run / "training_history.png").stat().st_size > 0
    assert len([line for line in told[0].splitlines() if "%" in line and "Epoch 1/1  train" not in line]) <= 2

    assert all(text.count("Prepared data is kept in") == 1 for text in told[:4])  # once by each command
    assert "Warning" not in "".join(told)
    assert {"confusion_matrix.png", "roc.png"} <= {path.name for path in run.iterdir()}
    resumed, validated = (json.loads(output) for output in outputs[:2])
    evaluated, plotted = outputs[2:]
    assert resumed["epochs"] == 2
    assert resumed["run"] == result["run"]
    assert validated["metrics"]["loss"] == pytest.approx(resumed["best"]["loss"], abs=1e-6)
    for word in ("cat", "dog", "owl", "accuracy"):
        assert word in evaluated.lower()
    report = json.loads((run / "evaluation.json").read_text())
    assert report["num_samples"] == 6
    assert "report.html" in plotted
    assert (tmp_path / "figures" / "report.html").stat().st_size > 0


def test_errors_say_what_where_and_what_to_do(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = picture_folder()
    broken = picture_folder(name="more")
    (broken / "cat" / "broken.png").write_bytes((root / "cat" / "0.png").read_bytes()[:50])
    (tmp_path / "my.yaml").write_text("task: image_classification\ntraining:\n  epoch: 3\n  learning_rate: fast\n")
    (tmp_path / "evil.pth").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    folder = ["train", "--config", "qr_cnn", *SMALL, "--set", "data.source=folder", "--set"]
    _, (missing, damaged, wrong, nothing, evil) = one_after_another(
        [*folder, f"data.path={root}x"],
        [*folder, f"data.path={broken}"],
        ["train", "--config", "my.yaml"],
        ["resume", "runs/nothing"],
        ["evaluate", "evil.pth"],
        cwd=tmp_path,
        codes=[3, 3, 2, 4, 4],
    )
    assert f"{root}x" in missing
    assert f"Did you mean {root}" in missing
    assert "broken.png" in damaged
    assert "data.on_error=skip" in damaged
    assert "my.yaml:3" in wrong
    assert "did you mean" in wrong
    assert "my.yaml:4" in wrong
    assert "runs/nothing" in nothing
    assert "posix.system" in evil
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments", [["--help"], ["validate", "nowhere", "--json"], ["plot", "nowhere", "--json"], []]
)
def test_a_full_standard_output_is_an_error(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dbbd_cli", *arguments]
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert ended.stderr.startswith("Error: ")
    assert "Traceback" not in ended.stderr
    assert ended.returncode == (6 if arguments in ([], ["--help"]) else 4)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_error_leaves_the_exit_code_of_the_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dbbd_cli", "plot", "nowhere", "--json", "--debug"]
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=full, text=True, timeout=120
        )
    assert ended.returncode == 4
    assert json.loads(ended.stdout)["error"]["exit_code"] == 4


def test_the_wheel_contains_configs_and_completion_scripts(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    names = sorted(path.stem for path in (REPOSITORY / "configs").glob("*.yaml"))
    script = (
        "from dbbd_cli.tasks.configs import load_config; from dbbd_cli.config.shipped import shipped_configs;"
        "from dbbd_cli.cli.completion.scripts import script;"
        "print(*sorted(shipped_configs())); [load_config(name) for name in shipped_configs()]; script('bash')"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == names
