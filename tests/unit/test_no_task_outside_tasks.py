"""No task is named outside `tasks/`, and nothing asks which kind a configuration or a task is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbbd_cli.tasks.configs import SCHEMAS
from dbbd_cli.tasks.registry import BUILT_IN

PACKAGE = Path(__file__).parents[2] / "dbbd_cli"
PROPERTIES = PACKAGE / "data" / "scenes" / "formats" / "names.py"
"""Lists names of properties in files, one of which is also that of a task."""
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "tasks" and path != PROPERTIES
)
SHARED = ("dbbd_cli.tasks", "dbbd_cli.tasks.base", "dbbd_cli.tasks.configs", "dbbd_cli.tasks.registry")
"""What other rooms may import of tasks; which rooms may, test_layers.py says."""
CLASSES = {schema.__name__ for schema in SCHEMAS.values()} | {path.rpartition(":")[2] for path in BUILT_IN.values()}
PROGRAM = "dbbd"
"""The program has the name of one of its tasks, which may therefore be a string, but not one that is compared."""


def findings(source: str) -> set[str]:
    """What a module knows of the tasks."""
    return set(_findings(ast.parse(source)))


def _findings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in set(BUILT_IN) - {PROGRAM}:
            yield f"the name {node.value!r}"
        elif isinstance(node, (ast.Compare, ast.Match)) and any(_is_program(part) for part in ast.walk(node)):
            yield f"a comparison with {PROGRAM!r}"
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if _is_program(node.value) and any("task" in ast.unparse(target).lower() for target in targets):
                yield f"{ast.unparse(targets[0])} = {PROGRAM!r}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            if named := CLASSES & {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}:
                yield f"a check for {', '.join(sorted(named))}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dbbd_cli.tasks."):
            if node.module not in SHARED:
                yield f"an import of {node.module}"
        elif isinstance(node, ast.Import):
            yield from (
                f"an import of {alias.name}"
                for alias in node.names
                if alias.name.startswith("dbbd_cli.tasks.") and alias.name not in SHARED
            )


def _is_program(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == PROGRAM


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_outside_tasks_knows_no_task(path: Path) -> None:
    assert findings(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 'image_classification'", "the name 'image_classification'"),
        ("if config.task == 'dbbd': pass", "a comparison with 'dbbd'"),
        ("x = report['task'] in ('a', 'dbbd')", "a comparison with 'dbbd'"),
        ("PRETRAINING_TASK = 'dbbd'", "PRETRAINING_TASK = 'dbbd'"),
        ("isinstance(config, DbbdConfig)", "a check for DbbdConfig"),
        ("isinstance(task, (int, ImageClassification))", "a check for ImageClassification"),
        ("from dbbd_cli.tasks.dbbd.config import DbbdConfig", "an import of dbbd_cli.tasks.dbbd.config"),
        ("def f():\n  import dbbd_cli.tasks.dbbd.task", "an import of dbbd_cli.tasks.dbbd.task"),
    ],
)
def test_each_kind_of_knowledge_is_found(source: str, found: str) -> None:
    assert findings(source) == {found}


@pytest.mark.parametrize(
    "source",
    [
        "app = Typer(name='dbbd')",
        "example = 'dbbd train --config qr_cnn'",
        "from dbbd_cli.tasks.registry import get_task",
        "isinstance(value, Mapping)",
    ],
)
def test_what_every_module_may_know_is_not_found(source: str) -> None:
    assert findings(source) == set()
