"""Describe what is wrong with a configuration: pydantic's errors, with line, value and suggestion."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dbbd_cli.config.sections import Section, settings
from dbbd_cli.config.yaml_text import Document, Key, Problem, dotted, plain_scalar
from dbbd_cli.core.errors import ConfigError

_ABSENT = object()
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
_TYPO = 0.8
"""Names that are more similar than this differ by a slip of the keys."""
_EXPECTED = {
    "bool_type": "expected true or false",
    "dict_type": "expected a section with keys",
    "list_type": "expected a list, such as [a, b]",
    "model_type": "expected a section with keys",
    "string_too_short": "expected non-empty text",
    "string_unicode": "expected text in UTF-8",
}
"""What is expected, by pydantic's type of error, where its own message does not fit."""
_WORDS = (
    ("Input should be", "expected"),
    ("List should have", "expected"),
    (" after validation", ""),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
    ("a valid integer", "an integer"),
    ("a valid number", "a number"),
    ("a valid string", "text"),
    ("a valid list", "a list"),
)
"""Words of pydantic's messages, and plainer ones."""


def describe(
    document: Document, error: ErrorDetails, schema: type[Section], schemas: Mapping[str, type[Section]]
) -> Problem:
    """Explain pydantic's `error` to the person who wrote `document`.

    Args:
        document: the values that were checked.
        error: one of the errors.
        schema: the one that they were checked with.
        schemas: those of all tasks.
    """
    kind, key = error["type"], key_of(error)
    place = document.place(key)
    if kind == "extra_forbidden":
        return Problem(place, f"{dotted(key)} is unknown", _suggestion(key, schema, schemas))
    field = dict(settings(schema)).get(tuple(map(str, key)))
    if kind == "invalid_key" or key[-1:] == ("[key]",):  # the name of a value is wrong
        *section, value = key[:-1] if key[-1] == "[key]" else key
        what = f"the key {shown(value)}" + (f" in {dotted(tuple(section))}" if section else "")
    else:
        value = _value(document.values, key)
        what = f"{dotted(key) or 'the top level'} is {_found(value, kind, field)}"
    choices = re.findall("'(.*?)'", str(error.get("ctx", {}).get("expected")))
    return Problem(place, what, _expected(error, field) + _hint(kind, value, choices))


def _expected(error: ErrorDetails, field: FieldInfo | None) -> str:
    if error["type"] == "string_pattern_mismatch" and field and field.description:
        return f"expected {field.description.partition(';')[0]}"  # it begins with what is accepted
    message = _EXPECTED.get(error["type"]) or error["msg"]
    for theirs, ours in _WORDS:
        message = message.replace(theirs, ours)
    return message


def _hint(kind: str, value: object, choices: Sequence[str]) -> str:
    """What to change so that `value` is accepted, if that can be guessed."""
    if isinstance(value, str):
        if kind in ("int_type", "float_type", "bool_type") and not isinstance(plain_scalar(value), str):
            return ", without quotes"
        if kind == "literal_error" and (near := closest(value, choices)):
            return f"; did you mean {near}?"
    elif kind == "string_type" and isinstance(value, (bool, int, float)):
        return ", in quotes"
    elif kind == "model_type" and value is None:
        return "; remove the line to use the defaults"
    return ""


def key_of(error: ErrorDetails) -> Key:
    """The key that `error` is about; a rule (`sections.rule_error`) names a field of its section."""
    return (*error["loc"], *error["ctx"]["field"].split(".")) if error["type"] == "rule" else error["loc"]


def shown(value: object) -> str:
    """A value as YAML writes it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _REPR.repr(value)


def closest(name: str, names: Iterable[str], similarity: float = 0.6) -> str:
    """The one of `names` that is most similar to `name`, or "" if none is similar enough (1: equal)."""
    import difflib  # only a mistake needs it

    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=similarity)), "")


def _found(value: object, kind: str, field: FieldInfo | None) -> str:
    if value is not _ABSENT:
        return shown(value)
    if kind == "missing":
        return "missing"
    return "not set" if field is None or field.default is None else f"{shown(field.default)}, the default"


def _value(values: Any, key: Key) -> Any:
    try:
        for part in key:
            values = values[part]
    except (KeyError, IndexError, TypeError):
        return _ABSENT
    return values


def _suggestion(key: Key, schema: type[Section], schemas: Mapping[str, type[Section]]) -> str:
    """What an unknown `key` may stand for: a similar name, or the same name in another task or section."""
    known, section, name = _keys(schema), key[:-1], str(key[-1]).lower()
    spelled_out = (*section, *name.split("."))
    if len(spelled_out) > len(key) and spelled_out in known:
        return f"write {spelled_out[-1]} inside the section {dotted(spelled_out[:-1])}"
    here = [str(other[-1]) for other in known if other[:-1] == section]
    meant = [other for other in known if other[-1] == name]
    near = closest(name, here)
    # The other tasks last: finding those of other packages takes a while.
    if not closest(name, here, _TYPO) and (
        tasks := [task for task, other in _others(schema, schemas) if key in _keys(other)]
    ):
        return f"it is a setting of the task {' or '.join(tasks)}"
    if near:
        meant.append((*section, near))
    elif not meant:
        near = closest(name, [str(other[-1]) for other in known])
        meant = [other for other in known if other[-1] == near]
    if meant:
        return f"did you mean {' or '.join(dict.fromkeys(map(dotted, meant)))}?"
    return f"expected one of: {', '.join(here)}"


def _others(schema: type[Section], schemas: Mapping[str, type[Section]]) -> Iterator[tuple[str, type[Section]]]:
    """The other tasks with their schemas, except those of other packages that cannot be imported."""
    for task in schemas:
        with suppress(ConfigError):
            if schemas[task] is not schema:
                yield task, schemas[task]


def _keys(schema: type[Section]) -> list[Key]:
    """All keys, including those of sections."""
    return list(dict.fromkeys(key[:end] for key, _ in settings(schema) for end in range(1, len(key) + 1)))
