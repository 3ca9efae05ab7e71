"""Load a configuration from a YAML file, a shipped config or a run, and report all its problems at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import ErrorDetails, ValidationError

from dbbd_cli.config.problems import closest, describe, key_of, shown
from dbbd_cli.config.sections import TaskConfig, to_plain, types_at
from dbbd_cli.config.shipped import shipped_configs
from dbbd_cli.config.yaml_text import Document, Key, Place, Problem, brief, dotted, plain_scalar, read_yaml
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.paths import shown_path
from dbbd_cli.core.text import counted, printable

Schemas = Mapping[str, type[TaskConfig]]
"""The schema of each task, by its name."""
MAX_BYTES = 1_000_000
MAX_SHOWN = 50


@dataclass(frozen=True)
class Override:
    """A value from the command line, which replaces that of the file.

    Attributes:
        key: the dotted key, such as "training.epochs".
        value: the value, or the `Unparsed` text of `--set`.
        origin: what errors call it, such as "--epochs".
    """

    key: str
    value: object
    origin: str


@dataclass(frozen=True)
class Unparsed:
    """The VALUE of `--set KEY=VALUE`, whose meaning depends on the type of the setting."""

    text: str


def parse_override(text: str) -> Override:
    """Split the "KEY=VALUE" of `--set`.

    A setting whose type is text takes VALUE literally, except that `null` is null if the setting may be null. For all
    others VALUE is YAML.

    Raises:
        ConfigError: KEY or "=" is missing.
    """
    origin = f"--set {brief(text, 80)}"
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        what = "the key, or a part of it, is empty" if equals else "there is no '='"
        raise ConfigError(f"{origin}: {what}", hint="write KEY=VALUE, such as --set training.epochs=3")
    return Override(key, Unparsed(value), origin)


def load_config(source: str, overrides: Sequence[Override] = (), *, schemas: Schemas) -> TaskConfig:
    """Load the YAML file at the path `source`, or else the shipped config of that name.

    An override that says where the data is, without its source, replaces the file's `source: synthetic`.

    Args:
        source: path or name.
        overrides: values that replace those of the file.
        schemas: those of the tasks that the file may be for.

    Raises:
        ConfigError: the file cannot be read, or anything in it or in `overrides` is wrong.
    """
    path = Path(source)
    shipped = shipped_configs().get(source.removesuffix(".yaml"))
    if shipped and not path.is_file():
        path = shipped
    name = brief(shown_path(path), limit=200)
    document = read_yaml(_text(path, name), name)
    return _validated(document, overrides, schemas, new_data=True)


def config_from_mapping(
    values: Mapping[str, Any],
    overrides: Sequence[Override] = (),
    *,
    origin: str,
    schemas: Schemas,
    new_data: bool = False,
) -> TaskConfig:
    """Check `values`, such as a checkpoint holds; errors call them `origin`.

    With `new_data`, an override that says where the data is implies its source, as in `load_config`.

    Raises:
        ConfigError: anything in `values` or in `overrides` is wrong.
    """
    return _validated(Document(brief(origin, limit=200), values), overrides, schemas, new_data)


def dump_config(config: TaskConfig) -> str:
    """The whole configuration as YAML, in the order of the schema; `load_config` reads it back equal."""
    return yaml.dump(to_plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


class _Dumper(yaml.SafeDumper):
    """Quotes text that this loader, or one that follows YAML 1.1, would read as something else."""

    def write_double_quoted(self, text: str, split: bool = True) -> None:
        """Write text that contains invisible characters in ASCII."""
        self.allow_unicode = False
        super().write_double_quoted(text, split)
        self.allow_unicode = True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(plain_scalar(text), str) else "'"
    # Only double quotes keep every line break.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style if printable(text) == text else '"')


_Dumper.add_representer(str, _represent_text)


def _text(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        stems = {stem: stem for stem in shipped_configs()}
        stems |= {file.stem: str(file) for suffix in (".yaml", ".yml") for file in path.parent.glob(f"*{suffix}")}
        near = stems.get(closest(path.stem, stems), "")
        hint = f"did you mean {brief(near, limit=200)}? ({_shipped_hint()})" if near else _shipped_hint()
        raise ConfigError(f"{name}: no such file or shipped config", hint=hint) from None
    except IsADirectoryError:
        files = ", ".join(sorted(str(file) for file in path.glob("*.yaml")))
        raise ConfigError(f"{name} is a folder", hint=f"name a file: {files}" if files else _shipped_hint()) from None
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}", hint=_shipped_hint()) from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name} is larger than {MAX_BYTES // 1_000_000} MB", hint="is this a config file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not UTF-8 text", hint="save it as UTF-8") from None


def _shipped_hint() -> str:
    return f"shipped configs: {', '.join(shipped_configs())}"


def _validated(document: Document, overrides: Sequence[Override], schemas: Schemas, new_data: bool) -> TaskConfig:
    if not isinstance(document.values, Mapping):
        raise ConfigError(
            f"{document.name}: the top level is {shown(document.values)}, not keys with values",
            hint=f"begin with 'task: {next(iter(schemas))}'",
        )
    document.values = dict(document.values)
    for override in overrides:  # the task first: it determines how to read the others
        if override.key == "task":
            _apply(document, override, _value(override, TaskConfig))
    schema, *others = _candidates(document, schemas)
    if new_data and _implies_source(document.values, overrides, schema):
        document.values["data"] = {name: v for name, v in document.values["data"].items() if name != "source"}
    for override in overrides:
        if override.key != "task":
            _apply(document, override, _value(override, schema))
    config, errors = _checked(schema, document.values)
    for other in others:
        found = {(error["type"], error["loc"]) for error in _checked(other, document.values)[1]}
        errors = [error for error in errors if (error["type"], error["loc"]) in found]
    if config is not None and not document.problems:
        return config
    errors.sort(key=lambda error: _order(document, document.place(key_of(error))))
    described = [describe(document, error, schema, schemas) for error in errors[:MAX_SHOWN]]
    raise _error(document, document.problems + described, len(document.problems) + len(errors))


def _candidates(document: Document, schemas: Schemas) -> list[type[TaskConfig]]:
    """The schema of the task that the document names.

    If it names none, that is a problem, and all schemas are returned: what is wrong for every task is surely wrong.
    """
    task = document.values.get("task")
    if isinstance(task, str) and task in schemas:
        return [schemas[task]]
    names = list(schemas)
    near = closest(task, names) if isinstance(task, str) else ""
    found = shown(task) if "task" in document.values else "missing"
    advice = f"expected one of: {', '.join(names)}" + (f"; did you mean {near}?" if near else "")
    document.problems.append(Problem(document.place(("task",)), f"task is {found}", advice))
    return list(schemas.values())


def _checked(schema: type[TaskConfig], values: Mapping[str, Any]) -> tuple[TaskConfig | None, list[ErrorDetails]]:
    """The configuration, or what is wrong with its values; an invalid task is reported by `_candidates`."""
    try:
        return schema.model_validate(values), []
    except ValidationError as failure:
        return None, [error for error in failure.errors(include_url=False) if error["loc"][:1] != ("task",)]


def _implies_source(values: Mapping[str, Any], overrides: Sequence[Override], schema: type[TaskConfig]) -> bool:
    """Whether `overrides` say where the data is, but not its source, and `values` say `source: synthetic`."""
    data = values.get("data")
    given = {override.key: override.value for override in overrides}
    if "data.source" in given or not isinstance(data, Mapping) or data.get("source") != "synthetic":
        return False
    keys = [f"{key}." for key, value in given.items() if value not in (None, Unparsed("null"))]
    return any(key.startswith(f"{setting}.") for key in keys for setting in schema.location_settings)


def _value(override: Override, schema: type[TaskConfig]) -> object:
    """The override's value. VALUE is text for settings of that type, otherwise YAML.

    Raises:
        ConfigError: it should be YAML, and cannot be read.
    """
    if not isinstance(override.value, Unparsed):
        return override.value
    text, types = override.value.text, types_at(schema, override.key)
    if text == "null" and type(None) in types:
        return None
    if str in types or not types:  # no types: the key is unknown, which is reported on its own
        return text
    document = read_yaml(text, override.origin, inline=True)
    if document.problems:
        raise ConfigError(f"{override.origin}: {document.problems[0].what}", hint=document.problems[0].advice)
    return document.values


def _apply(document: Document, override: Override, value: object) -> None:
    """Set the override's `value` in `document`. Sections on the way are copied: the source stays unchanged."""
    *sections, name = override.key.split(".")
    key: Key = ()
    parent = document.values
    for part in sections:
        key = (*key, part)
        child = parent.get(part)
        if child is None:
            document.places[key] = override.origin
        elif not isinstance(child, Mapping):
            what = f"{dotted(key)} is {shown(child)}, not a section with keys"
            document.problems.append(Problem(override.origin, what, f"set {dotted(key)} itself"))
            return
        parent[part] = dict(child or {})
        parent = parent[part]
    parent[name] = value
    key = (*key, name)
    document.places = {other: place for other, place in document.places.items() if other[: len(key)] != key}
    document.places[key] = override.origin


def _error(document: Document, problems: Sequence[Problem], total: int) -> ConfigError:
    """The error that lists the first of `problems`, in the order of the file."""
    ordered = sorted(problems, key=lambda problem: _order(document, problem.place))[:MAX_SHOWN]
    details = [problem.block(document.name) for problem in ordered]
    if total > len(details):
        details.append(f"and {total - len(details):,} more")
    return ConfigError(f"{document.name}: {counted(total, 'problem')}", details=details)


def _order(document: Document, place: Place) -> float:
    """The file as a whole, then its lines, then the overrides."""
    if isinstance(place, int):
        return place
    return 0 if place == document.name else inf
