"""The reference of all settings as Markdown, made from the schemas: `python docs/make_configuration.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dbbd_cli.config.expectations import Expectations
from dbbd_cli.config.sections import Section, settings
from dbbd_cli.tasks.configs import SCHEMAS

HEAD = """\
# Configuration

Every key of a configuration file, with its default. `--set KEY=VALUE` replaces any of them on the command line, as in
`dbbd train --config qr_cnn --set training.epochs=3 --set data.augment.rotation_degrees=0`.
There, text is taken literally, except that `null` is null for settings that may be null; all other values are YAML.

This page is made from the schema with `make docs`.
"""


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for task, schema in SCHEMAS.items():
        parts.append(f"\n## `task: {task}`\n\n| key | default | values | meaning |\n|---|---|---|---|\n")
        parts += _rows(schema)
    return "".join(parts)


def _rows(schema: type[Section]) -> Iterator[str]:
    expectations = Expectations(schema, SCHEMAS)
    for key, field in settings(schema):
        default = "*required*" if field.is_required() else f"`{json.dumps(field.default)}`"
        cells = (f"`{'.'.join(key)}`", default, expectations.of(key), field.description or "")
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |\n"


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(reference(), encoding="utf-8", newline="\n")
