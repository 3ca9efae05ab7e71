"""Run `dbbd` until the optimizer has taken its first step, and print the time of that step.

PyTorch is not imported here, because its import is part of what is measured: a hook waits for it.
"""

from __future__ import annotations

import importlib.abc
import os
import sys
import time
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

WATCHED = "torch.optim.optimizer"


class _Watcher(importlib.abc.MetaPathFinder):
    """Add a hook to PyTorch's optimizers when they are imported."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_hook(module: ModuleType) -> None:
            execute(module)
            module.register_optimizer_step_post_hook(_first_step)

        spec.loader.exec_module = execute_and_hook
        return spec


def _first_step(*_: object) -> None:
    sys.stderr.write(f"\nfirst step at {time.time()!r}\n")
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.meta_path.insert(0, _Watcher())
    from dbbd_cli.__main__ import main

    main()
