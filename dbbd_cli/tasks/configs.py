"""Load configurations of any task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.tasks.registry import BUILT_IN, get_task, task_names

if TYPE_CHECKING:
    from dbbd_cli.config.load import Override


class _Schemas(Mapping[str, type[TaskConfig]]):
    """The schema of each task, imported when it is needed."""

    def __getitem__(self, name: str) -> type[TaskConfig]:
        if name not in self:
            raise KeyError(name)
        return get_task(name).config_class

    def __contains__(self, name: object) -> bool:
        return name in BUILT_IN or name in task_names()

    def __iter__(self) -> Iterator[str]:
        """Yield the tasks that can be imported: a broken package must not hide an error in settings of another task."""
        for name in task_names():
            with suppress(ConfigError):
                get_task(name)
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)


SCHEMAS = _Schemas()


def load_config(source: str, overrides: Sequence[Override] = ()) -> TaskConfig:
    """Load a YAML file or a shipped configuration of any task; see `config.load.load_config`."""
    from dbbd_cli.config import load  # completion needs only the schemas

    return load.load_config(source, overrides, schemas=SCHEMAS)


def config_from_mapping(
    values: Mapping[str, Any], overrides: Sequence[Override] = (), *, origin: str, new_data: bool = False
) -> TaskConfig:
    """Check the settings of any task; see `config.load.config_from_mapping`."""
    from dbbd_cli.config import load

    return load.config_from_mapping(values, overrides, origin=origin, new_data=new_data, schemas=SCHEMAS)
