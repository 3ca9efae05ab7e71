"""The completion scripts of the shells: what `completions/` holds and `--install-completion` installs.

Each script hands the typed words to `dbbd` in environment variables that Typer reads, and shows what comes back.
They differ from the scripts that Typer generates in this: values that hold `=` complete in bash, which splits words
there; nothing follows a value that ends in `=` or `/`; and help texts are never evaluated by the shell.

`python -m dbbd_cli.cli.completion.scripts FOLDER` writes all four.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dbbd_cli.core.errors import ConfigError, DiskError

_BASH = r"""# Completion of dbbd for bash.
_dbbd_completion() {
    local breaks= words=() index piece joins= typed prefix reply
    # Bash splits words at the = and the : too, if COMP_WORDBREAKS has them. Such pieces are joined again.
    [[ $COMP_WORDBREAKS == *=* ]] && breaks+='='
    [[ $COMP_WORDBREAKS == *:* ]] && breaks+=':'
    for ((index = 0; index <= COMP_CWORD; index++)); do
        piece=${COMP_WORDS[index]}
        if ((index > 0)) && [[ -n $breaks && -n $piece && ($joins || $piece == [$breaks]*) ]]; then
            words[${#words[@]} - 1]+=$piece
        else
            words+=("$piece")
        fi
        joins=
        [[ -n $breaks && $piece == *[$breaks] ]] && joins=yes
    done
    # Bash replaces only what follows the last of these signs; the replies must not repeat what precedes it.
    typed=${words[${#words[@]} - 1]}
    [[ $typed == --*=* ]] && typed=${typed#*=}
    prefix=
    [[ -n $breaks ]] && prefix=${typed%"${typed##*[$breaks]}"}
    COMPREPLY=()
    while IFS= read -r reply; do
        [[ -n $reply ]] || continue
        reply=${reply#"$prefix"}
        [[ $reply == *' '* ]] && printf -v reply %q "$reply"
        COMPREPLY+=("$reply")
    done < <(
        IFS=$'\n'
        COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) _DBBD_COMPLETE=complete_bash command "$1" 2>/dev/null
    )
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _dbbd_completion dbbd
"""

_ZSH = r"""#compdef dbbd
# Completion of dbbd for zsh.
_dbbd() {
    local -a finished unfinished
    local reply value
    for reply in "${(@f)$(
        _TYPER_COMPLETE_ARGS="${(j: :)words[1,CURRENT]}" _TYPER_COMPLETE_FISH_ACTION=get-args \
        _DBBD_COMPLETE=complete_fish command "${words[1]}" 2>/dev/null
    )}"; do
        [[ -n $reply ]] || continue
        value="${${reply%%$'\t'*}//:/\\:}"
        [[ $reply == *$'\t'* ]] && reply="$value:${reply#*$'\t'}" || reply=$value
        # What ends in = or / is to be typed on: no space after it.
        [[ $value == *[=/] ]] && unfinished+=("$reply") || finished+=("$reply")
    done
    [[ $PREFIX == --*=* ]] && compset -P 1 '*='
    _describe dbbd finished -- unfinished -S ''
}
if [[ ${funcstack[1]} == _dbbd ]]; then
    _dbbd "$@"
else
    compdef _dbbd dbbd
fi
"""

_FISH = r"""# Completion of dbbd for fish.
function __dbbd_complete
    set -lx _DBBD_COMPLETE complete_fish
    set -lx _TYPER_COMPLETE_FISH_ACTION get-args
    set -lx _TYPER_COMPLETE_ARGS (commandline --current-process --cut-at-cursor)
    # In a word such as --config=qr_ only what follows the = is completed, but fish wants the whole word.
    set -l prefix (commandline --current-token --cut-at-cursor | string match --regex -- '^--[^=]+=')
    for reply in (dbbd 2>/dev/null)
        printf '%s\n' "$prefix$reply"
    end
end
complete --command dbbd --no-files --arguments '(__dbbd_complete)'
"""

_POWERSHELL = r"""# Completion of dbbd for PowerShell.
Register-ArgumentCompleter -Native -CommandName dbbd -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $Env:_DBBD_COMPLETE = "complete_powershell"
    $Env:_TYPER_COMPLETE_ARGS = $commandAst.ToString()
    $Env:_TYPER_COMPLETE_WORD_TO_COMPLETE = $wordToComplete
    # In a word such as --config=qr_ only what follows the = is completed, but the whole word is replaced.
    $prefix = if ($wordToComplete -match "^--[^=]+=") { $Matches[0] } else { "" }
    dbbd | ForEach-Object {
        $value, $help = $_ -split ":::"
        [System.Management.Automation.CompletionResult]::new($prefix + $value, $value, "ParameterValue", $help)
    }
    Remove-Item Env:_DBBD_COMPLETE, Env:_TYPER_COMPLETE_ARGS, Env:_TYPER_COMPLETE_WORD_TO_COMPLETE
}
"""

SCRIPTS = {"dbbd.bash": _BASH, "_dbbd": _ZSH, "dbbd.fish": _FISH, "dbbd.ps1": _POWERSHELL}
"""The script of each shell, by its file in `completions/`."""

_BY_SHELL = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH, "powershell": _POWERSHELL, "pwsh": _POWERSHELL}


def for_this_shell() -> str:
    """The script for the shell that started this process.

    Raises:
        ConfigError: it cannot be told, or there is no script for it.
    """
    return _BY_SHELL[_this_shell()]


def install() -> tuple[str, Path]:
    """Installs the script where the shell that started this process looks for it, in the user's home.

    Returns:
        The name of the shell, and the file.

    Raises:
        ConfigError: the shell cannot be told, or there is no script for it.
        DiskError: there is no home folder, or it cannot be written to.
    """
    try:
        return _install(_this_shell())
    except (RuntimeError, OSError) as error:
        raise DiskError(
            f"completion cannot be installed in the home folder: {error}",
            hint="Write the script to a file with dbbd --show-completion, and source that in your shell.",
        ) from error


def _install(for_shell: str) -> tuple[str, Path]:
    from typer.completion import install as install_typers  # type: ignore[attr-defined]

    shell, path = install_typers(for_shell, prog_name="dbbd")
    # Typer has changed the start-up file and written its own script, which ours replaces; but in PowerShell the two
    # are one file, the user's profile, and Typer's script stays.
    if _BY_SHELL[shell] is not _POWERSHELL:
        path.write_text(_BY_SHELL[shell], encoding="utf-8", newline="\n")
    return shell, path


def _this_shell() -> str:
    from shellingham import ShellDetectionFailure, detect_shell  # type: ignore[import-untyped]

    try:
        shell: str = detect_shell()[0]
    except ShellDetectionFailure:
        shell = Path(os.environ.get("SHELL", "unknown")).name
    if shell not in _BY_SHELL:
        raise ConfigError(
            f"no completion for this shell: {shell}", hint=f"There are scripts for {', '.join(_BY_SHELL)}."
        )
    return shell


def write(folder: Path) -> None:
    """Writes all scripts into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in SCRIPTS.items():
        (folder / name).write_text(script, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
