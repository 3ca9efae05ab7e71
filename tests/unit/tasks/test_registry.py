"""Tasks are found by name, here and in other packages, and a package that is broken says so."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.tasks import registry
from dbbd_cli.tasks.configs import SCHEMAS, config_from_mapping
from dbbd_cli.tasks.registry import BUILT_IN, get_task, package_behind, task_names

TOY = Path(__file__).parents[2] / "toy_task"
Install = Callable[[str], None]


@pytest.fixture
def _fresh_registry() -> Iterator[None]:
    for found in (get_task, registry._of_other_packages):
        found.cache_clear()
    yield
    for found in (get_task, registry._of_other_packages):
        found.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _fresh_registry: None) -> Install:
    """Installs a package whose entry points are the given lines."""

    def make(lines: str) -> None:
        info = tmp_path / "other-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[dbbd.tasks]\n{lines}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))

    return make


def test_every_task_has_the_name_that_it_is_registered_with() -> None:
    assert [get_task(name).name for name in BUILT_IN] == list(BUILT_IN)


@pytest.mark.usefixtures("_fresh_registry")
def test_the_task_of_another_package_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOY))
    assert task_names()[: len(BUILT_IN)] == list(BUILT_IN)
    assert "toy_regression" in task_names()
    assert "toy_regression" in SCHEMAS
    config = config_from_mapping({"task": "toy_regression", "data": {"path": "x.csv"}}, origin="test")
    assert (config.data.source, type(config)) == ("csv", SCHEMAS["toy_regression"])


def test_an_unknown_task_is_an_error_with_those_that_exist() -> None:
    with pytest.raises(ConfigError) as caught:
        get_task("dbdb\x1b")
    assert caught.value.message == "there is no task 'dbdb\\x1b'"
    assert caught.value.hint.startswith("choose one of: image_classification, dbbd")


def test_a_package_cannot_replace_a_built_in_task(install: Install) -> None:
    install("dbbd = missing.module:Task")
    assert task_names().count("dbbd") == 1
    assert get_task("dbbd").name == "dbbd"


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        ("broken = io:StringIO", "it has no build, can_corrupt, clouds, config_class"),
        ("broken = dbbd_cli.tasks.dbbd.task:Dbbd", "it is named 'dbbd'"),
        ("broken = dbbd_cli.tasks.base:Task", "abstract method"),
    ],
)
def test_a_class_that_is_not_a_task_of_that_name_is_refused(point: str, problem: str, install: Install) -> None:
    install(point)
    with pytest.raises(ConfigError) as caught:
        get_task("broken")
    assert problem in caught.value.message


def test_a_task_without_an_evaluation_is_refused(install: Install, tmp_path: Path) -> None:
    code = "from dbbd_cli.tasks.base import Task\n\nclass Broken(Task):\n    name = 'broken'\n"
    code += "    make_manifest = build = lambda *_, **__: None\n"
    (tmp_path / "task_without_evaluation.py").write_text(code, encoding="utf-8")
    install("broken = task_without_evaluation:Broken")
    with pytest.raises(ConfigError, match=r"abstract method '?evaluate"):
        get_task("broken")


def test_a_broken_package_does_not_hide_mistakes_in_the_settings_of_other_tasks(install: Install) -> None:
    install("broken = missing.module:Task")
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({"task": "dbbd", "trainin": {}}, origin="test")
    assert "did you mean training?" in "".join(caught.value.details)


def test_a_broken_package_is_named(install: Install) -> None:
    install("broken = missing.module:Task")
    assert "broken" in task_names()
    with pytest.raises(ConfigError) as caught:
        get_task("broken")
    assert caught.value.message.startswith("the task broken (missing.module:Task) cannot be used: ModuleNot")
    assert caught.value.hint == "update or uninstall its package, other 1.0"
    assert config_from_mapping({"task": "dbbd"}, origin="test").task == "dbbd"  # the others still work
    with pytest.raises(ConfigError) as caught:  # nor does it hide a mistake of the user
        config_from_mapping({"task": "dbbd", "trainig": {}}, origin="test")
    assert caught.value.details == ["test: trainig is unknown\n    did you mean training?"]


@pytest.mark.parametrize(
    ("code", "package"),
    [
        ("1 / 0", "other 1.0"),
        ("import json; json.loads('')", "other 1.0"),  # in a library that it calls
        ("from dbbd_cli.core.text import printable; printable(None)", ""),
    ],
)
def test_an_error_that_arises_in_the_code_of_a_package_is_its_own(
    code: str, package: str, install: Install, tmp_path: Path
) -> None:
    install("other = other_task.task:Task")
    (tmp_path / "other_task").mkdir()
    (tmp_path / "other_task" / "task.py").write_text(f"def fail():\n    {code}\n", encoding="utf-8")
    module = import_module("other_task.task")
    for name in ("other_task", "other_task.task"):
        del sys.modules[name]
    with pytest.raises(Exception) as caught:
        module.fail()
    assert package_behind(caught.value) == package
