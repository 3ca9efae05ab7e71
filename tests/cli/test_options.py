"""Options become overrides in the right order, and invalid ones are found in the configuration of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbbd_cli.cli.options import check_overrides, overrides
from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import ConfigError

MISSPELLED = [Override("trainig.epochs", 3, "--set")]


def test_flags_follow_set_and_are_left_out_if_not_given() -> None:
    changes = overrides(
        ["training.epochs=5", "seed=1"], {"--epochs": ("training.epochs", 3), "--device": ("run.device", None)}
    )
    assert [(change.key, change.origin) for change in changes[-1:]] == [("training.epochs", "--epochs")]
    assert [change.key for change in changes] == ["training.epochs", "seed", "training.epochs"]
    with pytest.raises(ConfigError, match=r"training\.epochs"):
        overrides(["training.epochs"], {})


def test_an_invalid_override_of_a_run_is_found(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("task: image_classification\n", encoding="utf-8")
    for target in (tmp_path, tmp_path / "ckpt.pth"):
        with pytest.raises(ConfigError, match="1 problem"):
            check_overrides(target, MISSPELLED)
        check_overrides(target, [Override("training.epochs", 3, "--epochs")])


@pytest.mark.parametrize("content", [None, "task: [", "trainig: {}\n"])
def test_without_a_valid_configuration_the_check_is_left_to_the_service(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content, encoding="utf-8")
    check_overrides(tmp_path, MISSPELLED)
