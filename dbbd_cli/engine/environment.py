"""What a run was made with: versions, source, hardware and command line."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dbbd_cli import __version__
from dbbd_cli.files import read_file, write_text

ENVIRONMENT = "environment.json"
_NONE_FOUND = 1
"""How `git config` ends where it knows no such setting."""
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


def write_environment(folder: Path, command: Sequence[str], device: str) -> None:
    """Records versions, source, hardware and command line in `environment.json`; a resume adds its own to them."""
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
            "threads": torch.get_num_threads(),
            "device": device,
            "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        },
    }
    try:
        first = json.loads(read_file(folder / ENVIRONMENT))
        content = {**first, "resumed": [*first.get("resumed", []), content]}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        pass  # a new run, or a file that somebody damaged
    write_text(folder / ENVIRONMENT, json.dumps(content, indent=2) + "\n")


def _git_commit() -> dict[str, Any] | None:
    """Commit of the working directory, and whether files in it differ from the commit, None where that is not asked."""
    code, commit = _git("rev-parse", "HEAD")
    if code != 0:
        return None
    # To compare files, git runs programs that a repository names in its settings, and this one may be a stranger's.
    code, programs = _git("config", "--show-scope", "--get-regexp", r"^(filter\.|core\.fsmonitor$)")
    if code not in (0, _NONE_FOUND) or re.search(r"^(local|worktree)\s", programs, re.MULTILINE):
        return {"commit": commit, "changed": None}
    code, changes = _git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    return {"commit": commit, "changed": bool(changes) if code == 0 else None}


def _git(*arguments: str) -> tuple[int, str]:
    """The exit code of git, -1 where it is not there or hangs, and its answer."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return -1, ""
    return done.returncode, done.stdout.strip()
