"""Arguments that are neither a run nor a checkpoint are named for what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbbd_cli.cli.targets import run_or_checkpoint
from dbbd_cli.core.errors import CheckpointError

FILES = (
    "configs/a.yaml",
    "pictures/cat/1.PNG",
    "scans/room/coord.npy",
    "urls.csv",
    "notes.txt",
    "empty/x",
    "weights/old.pth",
    "weights/state",
    "runs/20260131-120000-a/ckpt.pth",
    "runs/20260201-120000-b/ckpt.pth",
    "runs/20260201-120000-b/config.yaml",
    "runs/20260201-120000-b/history.jsonl",
    "runs/20260201-120000-b/events.out.tfevents.1.host.2.0",
    "runs/20260201-120000-b/training_history.png",
)
RUN = "runs/20260201-120000-b"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


@pytest.mark.parametrize(
    ("target", "what", "hint"),
    [
        ("configs/a.yaml", "is a configuration, not a run", "dbbd train --config configs/a.yaml"),
        ("qr_cnn", "is a shipped configuration, not a run", "dbbd train --config qr_cnn"),
        ("configs", "is a folder of configurations, not a run", "Give a run folder"),
        ("runs", "is a folder of runs, not a run", RUN),
        (".", "is a folder of runs, not a run", RUN),
        ("pictures", "is a folder of data, not a run", "Give a run folder"),
        ("scans", "is a folder of data, not a run", "Give a run folder"),
        ("pictures/cat/1.PNG", "is a .png file, not a checkpoint", "Give a run folder"),
        ("urls.csv", "is a .csv file, not a checkpoint", "Give a run folder"),
        ("notes.txt", "is a .txt file, not a checkpoint", "Give a run folder"),
        ("empty", "is not a run folder: it contains no checkpoint", "Give a run folder"),
        (f"{RUN}/config.yaml", "is the configuration of a run, not a checkpoint", f"instead: {RUN}"),
        (f"{RUN}/history.jsonl", "is a .jsonl file, not a checkpoint", f"instead: {RUN}"),
        (f"{RUN}/training_history.png", "is a .png file, not a checkpoint", f"instead: {RUN}"),
        (f"{RUN}/events.out.tfevents.1.host.2.0", "is a TensorBoard event file", f"instead: {RUN}"),
    ],
)
def test_other_paths_are_named_for_what_they_are(target: str, what: str, hint: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        run_or_checkpoint(Path(target))
    assert caught.value.message.startswith(f"{target} {what}")
    assert hint in caught.value.hint


@pytest.mark.parametrize("target", [RUN, f"{RUN}/ckpt.pth", "weights", "weights/old.pth", "weights/state"])
def test_possible_runs_and_checkpoints_are_left_to_the_service(target: str) -> None:
    assert run_or_checkpoint(Path(target)) == Path(target)


def test_any_file_of_a_run_may_stand_for_the_run(tmp_path: Path) -> None:
    path = Path(RUN) / "history.jsonl"
    assert run_or_checkpoint(path, any_file=True) == path
    with pytest.raises(CheckpointError, match="is a configuration, not a run"):
        run_or_checkpoint(Path("configs/a.yaml"), any_file=True)
