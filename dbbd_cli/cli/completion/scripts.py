"""The shell completion scripts: printed by `--show-completion`, installed by `--install-completion`.

They are the files in `completions/`. Each passes the typed words to `dbbd` in environment variables that Typer reads,
and shows what it answers. Unlike the scripts that Typer generates, they complete values that contain `=` in bash, which
splits words there; they put no space after a value that ends in `=` or `/`; and the shell never evaluates help texts.
"""

from __future__ import annotations

import os
from pathlib import Path

from dbbd_cli.core.compat import install_completion
from dbbd_cli.core.errors import ConfigError, DiskError

_FILES = {
    "bash": "dbbd.bash",
    "zsh": "_dbbd",
    "fish": "dbbd.fish",
    "powershell": "dbbd.ps1",
    "pwsh": "dbbd.ps1",
}


def script(shell: str) -> str:
    """The completion script for a shell."""
    package = Path(__file__).resolve().parents[2]
    # A wheel carries the scripts inside the package; in a checkout they are next to it.
    folder = next(path for path in (package / "completions", package.parent / "completions") if path.is_dir())
    return (folder / _FILES[shell]).read_text(encoding="utf-8")


def script_for_this_shell() -> str:
    """The completion script for the shell that started this process.

    Raises:
        ConfigError: the shell is unknown, or there is no script for it.
    """
    return script(_this_shell())


def install() -> tuple[str, Path]:
    """Install the script for the shell that started this process, in the user's home folder.

    Returns:
        The name of the shell, and the file.

    Raises:
        ConfigError: the shell is unknown, or there is no script for it.
        DiskError: there is no home folder, or it is not writable.
    """
    try:
        return _install(_this_shell())
    except (RuntimeError, OSError) as error:
        raise DiskError(
            f"completion cannot be installed in the home folder: {error}",
            hint="write the script to a file with dbbd --show-completion, and source that file in your shell",
        ) from error


def _install(shell: str) -> tuple[str, Path]:
    shell, path = install_completion(shell)
    # Typer has edited the shell's start-up file and written its own script, which ours replaces. In PowerShell both are
    # one file, the user's profile, and Typer's script stays.
    if _FILES[shell] != "dbbd.ps1":
        path.write_text(script(shell), encoding="utf-8", newline="\n")
    return shell, path


def _this_shell() -> str:
    from shellingham import ShellDetectionFailure, detect_shell  # type: ignore[import-untyped]

    try:
        shell: str = detect_shell()[0]
    except ShellDetectionFailure:
        shell = Path(os.environ.get("SHELL", "unknown")).name
    if shell not in _FILES:
        raise ConfigError(f"no completion script for this shell: {shell}", hint=f"available: {', '.join(_FILES)}")
    return shell
