"""Puts into words what a schema expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from typing import Any

from pydantic_core import ErrorDetails

from dbbd_cli.config.problems import Document, Key, Problem, dotted, shown
from dbbd_cli.config.sections import Section, settings
from dbbd_cli.config.yaml_text import plain_scalar

_ABSENT = object()


class Expectations:
    """What is known of one schema's keys. What is expected of their values is in its JSON schema, made when needed."""

    def __init__(self, schema: type[Section], schemas: Mapping[str, type[Section]]) -> None:
        self._schema = schema
        self._schemas = schemas

    def problem(self, document: Document, error: ErrorDetails) -> Problem:
        """What pydantic's `error` means to the person who wrote `document`."""
        kind, key = error["type"], key_of(error)
        place = document.place(key)
        if kind == "extra_forbidden":
            return Problem(place, f"{dotted(key)} is unknown", self._suggestion(key))
        if key[-1:] == ("[key]",):  # pydantic's way to say that the name itself is wrong
            return Problem(
                place, f"a name in {dotted(key[:-2])} is {shown(key[-2])}", "expected a name that is not empty"
            )
        value = _value(document.values, key)
        what = f"{dotted(key)} is {self._found(value, kind, key)}"
        expected = error["ctx"]["message"] if kind == "rule" else self._describe(self._node(key))
        if key == ("task",):
            expected = f"one of: {', '.join(self._schemas)}"
        if not expected:
            return Problem(place, what, error["msg"])
        if kind in ("int_type", "float_type", "bool_type") and isinstance(value, str):
            expected += "" if isinstance(plain_scalar(value), str) else ", without quotes"
        elif kind == "string_type" and isinstance(value, (bool, int, float)):
            expected += ", in quotes"
        elif kind == "string_unicode":
            expected = "text in UTF-8"
        elif kind == "model_type" and value is None:
            expected += "; without the line it has its defaults"
        elif kind == "literal_error" and isinstance(value, str) and (near := closest(value, self._choices(key))):
            expected += f"; did you mean {near}?"
        return Problem(place, what, f"expected {expected}")

    def of(self, key: Key) -> str:
        """What the schema expects at `key`."""
        return self._describe(self._node(key))

    def _found(self, value: object, kind: str, key: Key) -> str:
        if value is not _ABSENT:
            return shown(value)
        if kind == "missing":
            return "missing"
        default = self._node(key).get("default")
        return "not set" if default is None else f"{shown(default)}, the default"

    def _suggestion(self, key: Key) -> str:
        """What an unknown `key` may be meant for: the same name in other sections, else names like it."""
        others = [task for task, schema in self._schemas.items() if schema is not self._schema]
        if having := [task for task in others if key in Expectations(self._schemas[task], self._schemas)._keys]:
            return f"it is a setting of the task {' or '.join(having)}"
        section, name = key[:-1], str(key[-1]).lower()
        spelled_out = (*section, *name.split("."))
        if len(spelled_out) > len(key) and spelled_out in self._keys:
            return f"write {spelled_out[-1]} inside the section {dotted(spelled_out[:-1])}"
        here = [str(known[-1]) for known in self._keys if known[:-1] == section]
        meant = [known for known in self._keys if known[-1] == name]
        if near := closest(name, here):
            meant.append((*section, near))
        elif not meant:
            near = closest(name, [str(known[-1]) for known in self._keys])
            meant = [known for known in self._keys if known[-1] == near]
        if meant:
            return f"did you mean {' or '.join(dict.fromkeys(dotted(known) for known in meant))}?"
        return f"expected one of: {', '.join(here)}"

    def _describe(self, node: Mapping[str, Any]) -> str:
        """A type and its range, such as "an integer of at least 1, or null"."""
        if "anyOf" in node:
            about = {"description": node.get("description", "")}
            words = [self._describe(about | option) for option in node["anyOf"]]
            return f"{', '.join(words[:-1])}, or {words[-1]}"
        if "enum" in node or "const" in node:
            return f"one of: {', '.join(map(str, node.get('enum', [node.get('const')])))}"
        if "pattern" in node:  # the description of such a field begins with what it accepts
            return str(node["description"]).partition(";")[0]
        kind = node.get("type")
        if kind in ("integer", "number"):
            return ("an integer" if kind == "integer" else "a number") + _range(node)
        if kind == "string":
            return "text that is not empty" if node.get("minLength") else "text"
        if kind == "array":
            most = f", at most {node['maxItems']}" if "maxItems" in node else ""
            return f"a list, each entry {self._describe(node['items'])}{most}"
        if kind == "object" and "additionalProperties" in node and "properties" not in node:
            return f"names, each with {self._describe(node['additionalProperties'])}"
        return {"object": "a section with keys", "boolean": "true or false", "null": "null"}.get(str(kind), "")

    def _choices(self, key: Key) -> list[str]:
        if key == ("task",):
            return list(self._schemas)
        node = self._node(key)
        return [str(choice) for option in node.get("anyOf", [node]) for choice in option.get("enum", ())]

    def _node(self, key: Key) -> Mapping[str, Any]:
        """The JSON schema of `key`; empty where there is none."""
        node: Mapping[str, Any] = self._root
        for part in key:
            options = [self._resolved(option) for option in node.get("anyOf", [node])]
            node = next((option for option in options if option.get("type") in ("object", "array")), {})
            inner = node.get("properties", {}).get(part) or node.get("additionalProperties") or node.get("items")
            node = self._resolved(inner or {})
        return node

    def _resolved(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """`node`, with the definition that it refers to."""
        reference = node.get("$ref")
        return {**self._root["$defs"][reference.rpartition("/")[2]], **node} if reference else node

    @property
    def _root(self) -> dict[str, Any]:
        return _json_schema(self._schema)

    @cached_property
    def _keys(self) -> list[Key]:
        """All keys, those of sections among them."""
        parts = [key for key, _ in settings(self._schema)]
        return list(dict.fromkeys(key[:end] for key in parts for end in range(1, len(key) + 1)))


@cache
def _json_schema(schema: type[Section]) -> dict[str, Any]:
    return schema.model_json_schema()


def key_of(error: ErrorDetails) -> Key:
    """The key that `error` is about; a rule (schema.rule_error) names a field of the section that it stands in."""
    return (*error["loc"], *error["ctx"]["field"].split(".")) if error["type"] == "rule" else error["loc"]


def closest(name: str, names: Iterable[str]) -> str:
    """The one of `names` that looks most like `name`, or ""."""
    import difflib  # only a mistake needs it

    return next(iter(difflib.get_close_matches(name, list(names), n=1)), "")


def _range(node: Mapping[str, Any]) -> str:
    low, above = node.get("minimum"), node.get("exclusiveMinimum")
    high, below = node.get("maximum"), node.get("exclusiveMaximum")
    if low is not None and high is not None:
        words = f" between {_number(low)} and {_number(high)}"
    else:
        bounds = {"of at least": low, "greater than": above, "of at most": high, "less than": below}
        words = " and".join(f" {word} {_number(bound)}" for word, bound in bounds.items() if bound is not None)
    return words + (f", a multiple of {node['multipleOf']}" if "multipleOf" in node else "")


def _number(bound: float) -> str:
    """A bound without a trailing ".0"."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _value(values: Any, key: Key) -> Any:
    try:
        for part in key:
            values = values[part]
    except (KeyError, IndexError, TypeError):
        return _ABSENT
    return values
