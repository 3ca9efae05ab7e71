"""Write `docs/configuration.md`, the reference of all settings, from the schemas: run this file with Python."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter  # noqa: TID253 - no command imports this
from pydantic.fields import FieldInfo  # noqa: TID253

from dbbd_cli.config.sections import Section, settings
from dbbd_cli.tasks.configs import SCHEMAS
from dbbd_cli.tasks.registry import BUILT_IN

HEAD = """\
# Configuration

Every key of a configuration file, with its default. `--set KEY=VALUE` replaces any of them on the command line, as in
`dbbd train --config qr_cnn --set training.epochs=3 --set data.augment.rotation_degrees=0`.
There, text is taken literally, except that `null` is null for settings that may be null; all other values are YAML.

This page is generated from the schemas by `make docs`.
"""


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for task in BUILT_IN:
        parts.append(f"\n## `task: {task}`\n\n| key | default | values | meaning |\n|---|---|---|---|\n")
        parts += _rows(SCHEMAS[task])
    return "".join(parts)


def _rows(schema: type[Section]) -> Iterator[str]:
    for key, field in settings(schema):
        default = "*required*" if field.is_required() else f"`{json.dumps(field.default)}`"
        cells = (f"`{'.'.join(key)}`", default, _values(field), field.description or "")
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |\n"


def _values(field: FieldInfo) -> str:
    """What a setting may be, such as "an integer of at least 1, or null"."""
    annotation = Annotated[(field.annotation, Field(), *field.metadata)]
    return _in_words(TypeAdapter(annotation).json_schema(), field.description or "")


def _in_words(node: Mapping[str, Any], description: str) -> str:
    if "anyOf" in node:
        words = [_in_words(option, description) for option in node["anyOf"]]
        return f"{', '.join(words[:-1])}, or {words[-1]}"
    if "enum" in node or "const" in node:
        return f"one of: {', '.join(map(str, node.get('enum', [node.get('const')])))}"
    kind = node["type"]
    if kind == "array":
        most = f", at most {node['maxItems']}" if "maxItems" in node else ""
        return f"a list, each entry {_in_words(node['items'], description)}{most}"
    if kind == "object":
        return f"a mapping of names to {_in_words(node['additionalProperties'], description)}"
    if kind in ("integer", "number"):
        return ("an integer" if kind == "integer" else "a number") + _range(node)
    if "pattern" in node:  # the description of such a setting begins with what it accepts
        return description.partition(";")[0]
    return {"string": "non-empty text", "boolean": "true or false", "null": "null"}[kind]


def _range(node: Mapping[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        words = f" between {_number(low)} and {_number(high)}"
    else:
        names = {"minimum": "of at least", "exclusiveMinimum": "greater than"}
        names |= {"maximum": "at most", "exclusiveMaximum": "less than"}
        words = " and".join(f" {words} {_number(node[name])}" for name, words in names.items() if name in node)
    return words + (f", a multiple of {node['multipleOf']}" if "multipleOf" in node else "")


def _number(bound: float) -> str:
    """A bound without a trailing ".0"."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(reference(), encoding="utf-8", newline="\n")
