"""Undamaged checkpoints that this version cannot read: refused, and never replaced, renamed or skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dbbd_cli import __version__
from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.engine.checkpoint.files import BEST, NEWEST, WRITER, load_checkpoint, previous_name
from dbbd_cli.model.digest import save_with_digest
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.resume import resume
from dbbd_cli.services.train import train
from dbbd_cli.services.validate import validate
from dbbd_cli.tasks.configs import load_config

PREVIOUS = previous_name(1)
NEWER = "9.8.7"


class Part:
    """Something that a later version might keep in a checkpoint."""


def of_another_format(state: dict[str, Any], path: Path) -> None:
    save_with_digest({**state, "format": 4}, path)


def of_another_format_and_content(state: dict[str, Any], path: Path) -> None:
    save_with_digest({"format": 4, WRITER: NEWER, "module": {}, "new": [1, 2]}, path)


def without_a_part(state: dict[str, Any], path: Path) -> None:
    save_with_digest({key: value for key, value in state.items() if key != "scaler"}, path)


def with_an_object(state: dict[str, Any], path: Path) -> None:
    save_with_digest({**state, "new": Part()}, path)


def with_another_state(state: dict[str, Any], path: Path) -> None:
    save_with_digest({**state, "state": {**state["state"], "new": 1}}, path)


def with_a_new_setting(state: dict[str, Any], path: Path) -> None:
    save_with_digest({**state, "config": {**state["config"], "new": 1}}, path)


def of_another_layout(state: dict[str, Any], path: Path) -> None:
    save_with_digest({"version": 3, "weights": state["module"]}, path)


def without_digest(state: dict[str, Any], path: Path) -> None:
    torch.save({**state, "format": 4}, path)


def without_digest_and_of_another_layout(state: dict[str, Any], path: Path) -> None:
    torch.save({"format": 4, WRITER: NEWER, "weights": state["module"]}, path)


KINDS = [
    of_another_format, of_another_format_and_content, without_a_part, with_an_object, with_another_state,
    with_a_new_setting, of_another_layout, without_digest, without_digest_and_of_another_layout,
]  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def put_newer(folder: Path, name: str, kind: Callable[[dict[str, Any], Path], None] = of_another_format) -> None:
    state = {**load_checkpoint(folder / name), WRITER: NEWER}
    (folder / name).unlink()  # it may be one file with another
    kind(state, folder / name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    settings = {
        "run.runs_dir": str(folder), "run.device": "cpu", "run.plots": False, "data.cache_dir": str(folder / "cache"),
        "data.synthetic_scenes": 6, "data.synthetic_points": 1000, "data.max_depth": 2, "data.num_workers": 0,
        "training.epochs": 2, "checkpoint.keep": 3, "model.encoder_hidden_dims": [8], "loss.point_samples": 32,
        **{f"model.{name}": 8 for name in ("hidden_dim", "output_dim", "propagator_hidden_dim", "projection_dim")},
    }  # fmt: skip
    return train(load_config("smoke_dbbd", [Override(key, value, "--set") for key, value in settings.items()])).run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "runs" / "run")


def more(**settings: object) -> list[Override]:
    return [
        Override(key.replace("__", "."), value, "--set") for key, value in {"training.epochs": 3, **settings}.items()
    ]


def test_a_checkpoint_names_the_version_that_wrote_it(run: Path) -> None:
    put_newer(run, PREVIOUS, lambda state, path: save_with_digest(state, path))
    assert load_checkpoint(run / NEWEST)[WRITER] == __version__
    assert load_checkpoint(run / PREVIOUS)[WRITER] == NEWER
    other = resume(run / PREVIOUS, overrides=more()).run
    assert other != run
    assert {load_checkpoint(path)[WRITER] for path in other.glob("*.pth")} == {__version__}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [NEWEST, PREVIOUS, BEST])
def test_a_run_folder_with_an_unreadable_checkpoint_is_not_resumed(
    run: Path, kind: Callable[[dict[str, Any], Path], None], name: str
) -> None:
    put_newer(run, name, kind)
    before = content(run)
    for settings in ({}, {"checkpoint__keep": 1}):
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
            resume(run, overrides=more(**settings))
        assert caught.value.exit_code == 4
        if kind in (of_another_format, of_another_format_and_content, without_a_part, without_digest):
            assert f"use dbbd {NEWER}" in caught.value.hint
        assert content(run) == before


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_checkpoint_given_by_name_continues_in_a_new_folder(
    run: Path, kind: Callable[[dict[str, Any], Path], None]
) -> None:
    put_newer(run, NEWEST, kind)
    before = content(run)
    resumed = resume(run / PREVIOUS, overrides=more())
    assert resumed.run != run
    assert resumed.epochs == 3
    after = content(run)
    for changing in ("run.log", "run.lock"):
        before.pop(changing, None), after.pop(changing, None)
    assert after == before


@pytest.mark.parametrize("kind", [of_another_format, without_a_part, with_an_object, without_digest])
def test_validate_and_evaluate_do_not_use_another_instead(
    run: Path, kind: Callable[[dict[str, Any], Path], None]
) -> None:
    put_newer(run, BEST, kind)
    for command in (validate, lambda target: evaluate(target, split="val", plots=False)):
        for target in (run, run / BEST):
            with pytest.raises(CheckpointError, match=r"best_model\.pth"):
                command(target)
        assert command(run / NEWEST)
    (run / BEST).unlink()
    put_newer(run, NEWEST, kind)
    with pytest.raises(CheckpointError, match=r"ckpt\.pth"):
        validate(run)


def test_a_damaged_checkpoint_is_renamed_and_kept(run: Path) -> None:
    (run / NEWEST).write_bytes(damaged := (run / NEWEST).read_bytes()[:-1000])
    (run / "ckpt.damaged.pth").write_bytes(b"earlier")
    assert resume(run, overrides=more(checkpoint__keep=1)).epochs == 3
    assert (run / "ckpt.damaged.pth").read_bytes() == b"earlier"
    assert (run / "ckpt.damaged2.pth").read_bytes() == damaged
    assert load_checkpoint(run / NEWEST)["state"]["epoch"] == 4
