"""The error message that docs/commands.md shows is that of the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.tasks.configs import load_config

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
CONFIG = """task: image_classification
data:
  source: foldr
  sample_per_class: 0
training:
  epoch: 3
  learning_rate: 0.1
  learning_rate: 0.2
modell: {}
"""


def test_the_mistakes_in_a_configuration_are_those_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(CONFIG, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config("my.yaml")
    lines = [f"Error: {caught.value.message}", *"\n".join(caught.value.details).splitlines()]
    (shown,) = re.findall(r"```console\n\$ dbbd train --config my.yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert [line.strip() for line in shown.splitlines()] == [line.strip() for line in lines]
