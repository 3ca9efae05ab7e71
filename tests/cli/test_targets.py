"""Arguments that are neither a run nor a checkpoint are refused before PyTorch is imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbbd_cli.cli.targets import require_run_or_checkpoint
from dbbd_cli.core.errors import CheckpointError

FILES = (
    "a.yaml",
    "pictures/cat/1.PNG",
    "weights/old.pth",
    "weights/state",
    "runs/20260131-120000-a/config.yaml",
    "runs/20260201-120000-b/ckpt.pth",
    "runs/20260201-120000-b/config.yaml",
    "runs/20260201-120000-b/history.jsonl",
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
        ("a.yaml", "is a configuration, not a run", "dbbd train --config a.yaml"),
        ("qr_cnn", "is a configuration, not a run", "dbbd train --config qr_cnn"),
        ("runs", "is not a run folder", RUN),
        (".", "is not a run folder", RUN),
        ("pictures", "is not a run folder", "pass a run folder"),
        (f"{RUN}/history.jsonl", "is not a checkpoint", f"instead: {RUN}"),
    ],
)
def test_other_paths_are_refused_with_what_to_give_instead(target: str, what: str, hint: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        require_run_or_checkpoint(Path(target))
    assert caught.value.message.startswith(f"{target} {what}")
    assert hint in caught.value.hint


def test_a_path_that_is_too_long_does_not_exist() -> None:
    with pytest.raises(CheckpointError, match="no such run folder or checkpoint"):
        require_run_or_checkpoint(Path("a/" * 3000))


@pytest.mark.parametrize("target", [RUN, f"{RUN}/ckpt.pth", "weights", "weights/old.pth", "weights/state"])
def test_possible_runs_and_checkpoints_are_left_to_the_service(target: str) -> None:
    require_run_or_checkpoint(Path(target))


def test_any_file_of_a_run_may_stand_for_the_run() -> None:
    require_run_or_checkpoint(Path(RUN) / "history.jsonl", any_file=True)
    with pytest.raises(CheckpointError, match="is a configuration, not a run"):
        require_run_or_checkpoint(Path("a.yaml"), any_file=True)
