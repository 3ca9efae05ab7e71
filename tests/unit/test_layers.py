"""Every module imports only from the layers below its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "dbbd_cli"
LAYERS = {
    "core": 1, "config": 2, "runs": 3, "model": 4, "data": 4, "report": 4,
    "engine": 5, "tasks": 6, "services": 7, "cli": 8, "__main__": 9,
}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def rooms_imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dbbd_cli"):
            if node.module == "dbbd_cli":
                names.update(alias.name for alias in node.names if alias.name in LAYERS)
            else:
                names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dbbd_cli."))
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_from_the_layers_under_it(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        assert not rooms_imported(path)
        return
    for other in rooms_imported(path) - {room}:
        assert LAYERS[other] < LAYERS[room], f"{room} (layer {LAYERS[room]}) imports {other} (layer {LAYERS[other]})"
