"""`evaluation.json` is checked before anything is drawn from it: a damaged one is an error that names the wrong key."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dbbd_cli.core.errors import CheckpointError, ExitCode
from dbbd_cli.report.evaluation import Evaluation, evaluation_problem, read_evaluation, same_length

Make = Callable[..., Any]
EVALUATION = {
    "format": 1,
    "task": "toy",
    "split": "test",
    "loss": 0.5,
    "epoch": 3,
    "synthetic": False,
    "num_samples": 8,
    "efficiency": {"parameters": 7, "ms_per_batch": {"median": 1.5, "p10": 1, "p90": None}, "device": "cpu"},
    "of_this_task": [{}],
}


def write(folder: Path, text: str) -> Path:
    (folder / "evaluation.json").write_text(text, encoding="utf-8")
    return folder


def test_an_evaluation_is_read_if_there_is_one(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path, Evaluation) is None
    if os.name != "nt":  # links need a privilege there
        (tmp_path / "evaluation.json").symlink_to("x" * 300)
        assert read_evaluation(tmp_path, Evaluation) is None
        (tmp_path / "evaluation.json").unlink()
    for values in (EVALUATION, {"format": 1}, dict.fromkeys(EVALUATION) | {"format": 1}):
        assert read_evaluation(write(tmp_path, json.dumps(values)), Evaluation) == values


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("format", 2, "format: Input should be 1"),
        ("num_samples", "many", "num_samples"),
        ("format", [[]], "format: "),
        ("format", 10**4000, "format: "),
        ("synthetic", "no", "synthetic"),
        ("num_samples", 2**60, "num_samples"),
        ("loss", 1e308, "loss"),
        ("loss", 10**4000, "loss"),
        ("loss", float("1e999"), "loss"),
        ("epoch", -1, "epoch: "),
        ("epoch", True, "epoch: "),
        ("loss", "0.5", "loss: "),
        ("task", ["toy"], "task: "),
        ("efficiency", [], "efficiency: "),
        ("efficiency", {"parameters": 0.5}, r"efficiency\.parameters: "),
        ("efficiency", {"device": 7}, r"efficiency\.device: "),
        ("efficiency", {"ms_per_batch": {"p90": "slow"}}, r"efficiency\.ms_per_batch\.p90: "),
    ],
    ids=lambda value: str(value)[:60],  # pytest puts ids into the environment, which Windows limits
)
def test_the_first_wrong_key_is_named(tmp_path: Path, key: str, value: object, problem: str) -> None:
    text = json.dumps({**EVALUATION, key: value}).replace("Infinity", "1e999")
    with pytest.raises(CheckpointError, match=problem) as caught:
        read_evaluation(write(tmp_path, text), Evaluation)
    assert caught.value.message.startswith(f"{tmp_path / 'evaluation.json'} is damaged: ")
    assert len(caught.value.message) < 300
    assert caught.value.hint == f"write it again with `dbbd evaluate {tmp_path}`"
    assert caught.value.exit_code == ExitCode.CHECKPOINT


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000], ids=lambda text: text[:9])
def test_other_content_is_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match=r"evaluation\.json is damaged"):
        read_evaluation(write(tmp_path, text), Evaluation)


def test_hostile_keys_are_shown_escaped_and_short() -> None:
    from dbbd_cli.report.classification.evaluation_schema import ClassificationEvaluation

    problem = evaluation_problem({"format": 1, "recall_at_fpr": {"\x1b" * 500: 2}}, ClassificationEvaluation)
    assert problem.startswith("recall_at_fpr.\\x1b")
    assert "\x1b" not in problem
    assert len(problem) < 200


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "evaluation.json")
    with pytest.raises(CheckpointError, match=r"evaluation\.json cannot be read: it is not a regular file"):
        read_evaluation(tmp_path, Evaluation)


def test_lists_that_belong_together_must_be_equally_long() -> None:
    same_length([1, 2], [3, 4])
    for lists in ([1, 2], [3]), ([], []):
        with pytest.raises(ValueError, match="differ in length"):
            same_length(*lists)


def test_types_are_not_converted() -> None:
    with pytest.raises(ValidationError):
        Evaluation.model_validate({"format": 1, "num_samples": "8"})
