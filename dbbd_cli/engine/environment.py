"""The environment of a run: versions, source, hardware and command line."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dbbd_cli import __version__
from dbbd_cli.core.files import read_file, write_text
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.runs.folder import ENVIRONMENT

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pillow",
    "segno",
    "pydantic",
    "typer",
    "rich",
    "matplotlib",
    "tensorboard",
)


def write_environment(folder: Path, command: Sequence[str], runtime: Runtime) -> None:
    """Write `environment.json`: versions, source, hardware, precision and command line; a resume adds its own."""
    versions = {"dbbd": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    content: dict[str, Any] = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": list(command),
        "working_directory": str(Path.cwd()),
        "versions": versions,
        "git": _git_commit(),
        "hardware": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "device": runtime.description,
            "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        },
        "runtime": asdict(runtime.record()),
    }
    try:
        first = json.loads(read_file(folder / ENVIRONMENT))
        content = {**first, "resumed": [*first.get("resumed", []), content]}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        pass  # a new run, or a damaged file
    write_text(folder / ENVIRONMENT, json.dumps(content, indent=2) + "\n")


def _git_commit() -> dict[str, str] | None:
    """Commit of the working directory.

    Whether files have changed since is not recorded: to find out, git would run hooks and filters of the repository,
    which may belong to somebody else.
    """
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return {"commit": done.stdout.strip()} if done.returncode == 0 else None
