"""Every setting says what it means, and every schema names its task."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import pytest

from dbbd_cli.config.sections import Section
from dbbd_cli.tasks.configs import SCHEMAS


def sections(schema: type[Section]) -> Iterator[type[Section]]:
    yield schema
    for field in schema.model_fields.values():
        for option in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(option, type) and issubclass(option, Section):
                yield from sections(option)


FIELDS = {
    f"{section.__name__}.{name}": field
    for schema in SCHEMAS.values()
    for section in sections(schema)
    for name, field in section.model_fields.items()
}


def test_sections_are_found() -> None:
    assert {
        "ImageClassificationConfig.seed",
        "ClassifierSplitConfig.group",
        "DbbdModelConfig.hidden_dim",
        "ClassifierTrainingConfig.epochs",
    } <= set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_means(name: str) -> None:
    assert FIELDS[name].description


@pytest.mark.parametrize("task", SCHEMAS)
def test_the_task_names_its_schema(task: str) -> None:
    assert SCHEMAS[task].model_validate({"task": task}).task == task
