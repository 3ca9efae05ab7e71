"""The completion scripts complete lines in the shells that are installed here, and can be installed and shown."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dbbd_cli.cli.completion import scripts as completion_scripts
from dbbd_cli.core.errors import DiskError

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "completions"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals and POSIX shells")


def test_without_a_home_folder_installing_fails_with_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    with pytest.raises(DiskError, match="completion cannot be installed in the home folder") as caught:
        completion_scripts.install()
    assert "dbbd --show-completion" in caught.value.hint


def need(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    return path


# The words before the cursor, as bash splits them at COMP_WORDBREAKS, and the replies.
BASH_CASES = [
    (("dbbd", "tr"), ["train"]),
    (("dbbd", "train", "--config", "qr_"), ["qr_cnn", "qr_resnet18", "qr_url"]),
    (("dbbd", "train", "--config", "=", "qr_r"), ["qr_resnet18"]),
    (("dbbd", "train", "--set", "training.lear"), ["training.learning_rate="]),
    (("dbbd", "train", "--set", "data.source", "=", "fo"), ["folder"]),
    (("dbbd", "train", "--set", "=", "data.source", "=", "fo"), ["folder"]),
    (("dbbd", "train", "--set", "data.source", "="), ["classes", "folder", "shards", "synthetic", "table", "urls"]),
    (("dbbd", "train", "--set", "data.source", "=", "urls", ""), []),
    (("dbbd", "train", "-c", "debug_local", "--set", "data.source", "="), ["folder", "synthetic"]),
]


def test_bash(process_environment: Mapping[str, str]) -> None:
    calls = "".join(
        f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}\n"
        '_dbbd_completion dbbd; echo "${COMPREPLY[*]}"\n'
        for words, _ in BASH_CASES
    )
    process = subprocess.run(
        [need("bash"), "--norc", "--noprofile", "-c", f"source completions/dbbd.bash\n{calls}"],
        env=process_environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [sorted(line.split()) for line in process.stdout.splitlines()]
    assert answers == [replies for _, replies in BASH_CASES]


def test_bash_without_word_breaks_gets_whole_words(process_environment: Mapping[str, str]) -> None:
    script = (
        "source completions/dbbd.bash; COMP_WORDBREAKS=' '; COMP_CWORD=3\n"
        'COMP_WORDS=(dbbd train --set data.source=fo); _dbbd_completion dbbd; echo "${COMPREPLY[*]}"'
    )
    process = subprocess.run(
        [need("bash"), "--norc", "--noprofile", "-c", script],
        env=process_environment, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert process.stdout == "data.source=folder\n"


@pytest.mark.parametrize(
    ("shell", "options", "setup"),
    [
        ("bash", ["--norc", "--noprofile"], "source completions/dbbd.bash"),
        ("zsh", ["-f"], "autoload -Uz compinit; compinit -u -D; source completions/_dbbd"),
    ],
)
def test_tab(shell: str, options: list[str], setup: str, process_environment: Mapping[str, str]) -> None:
    """Type lines that end in a TAB and a mark, and compare the words that the shell makes of them."""
    pexpect = pytest.importorskip("pexpect")
    environment = {**process_environment, "TERM": "dumb", "PS1": "$ "}
    terminal = pexpect.spawn(
        need(shell), options, env=environment, cwd=str(ROOT), encoding="utf-8", dimensions=(24, 160), timeout=20
    )
    # A function named dbbd prints its arguments; the completion still calls the program.
    terminal.sendline(f"{setup}; dbbd() {{ printf '<%s>' \"$@\"; echo; }}; PS1='rea''dy '")
    terminal.expect_exact("ready ")
    for typed, arguments in (
        ("tr", "<train><MARK>"),
        ("train --set training.lear", "<train><--set><training.learning_rate=MARK>"),
        ("train --set data.source=fo", "<train><--set><data.source=folder><MARK>"),
        ("train -c debug_local --set data.max_d", "<train><-c><debug_local><--set><data.max_depth=MARK>"),
        ("train -c qr_cnn --set data.max_d", "<train><-c><qr_cnn><--set><data.max_dMARK>"),
        ("train --config=qr_r", "<train><--config=qr_resnet18><MARK>"),
        ("evaluate conf", "<evaluate><configs/MARK>"),
    ):
        terminal.sendline(f"dbbd {typed}\tMARK")
        terminal.expect_exact(arguments)
    terminal.close(force=True)


def test_fish(process_environment: Mapping[str, str]) -> None:
    lines = ["dbbd tr", "dbbd train --config qr_r", "dbbd train --set data.source=fo", "dbbd train --config=qr_r"]
    lines += ["dbbd train -c qr_cnn --set data.image_s", "dbbd train -c debug_local --set data.image_s"]
    script = "source completions/dbbd.fish\n" + "".join(f'complete -C "{line}"\n' for line in lines)
    process = subprocess.run(
        [need("fish"), "--no-config", "-c", script],
        env=process_environment, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    offered = [line.split("\t")[0] for line in process.stdout.splitlines()]
    assert offered == ["train", "qr_resnet18", "data.source=folder", "--config=qr_resnet18", "data.image_size="]


def test_powershell(process_environment: Mapping[str, str]) -> None:
    line = "dbbd train --set data.source=fo"
    script = (
        "& ./completions/dbbd.ps1; "
        f"(TabExpansion2 '{line}' {len(line)}).CompletionMatches | ForEach-Object {{ $_.CompletionText }}"
    )
    process = subprocess.run(
        [need("pwsh"), "-NoProfile", "-Command", script],
        env=process_environment, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert process.stdout.split() == ["data.source=folder"]


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".bash_completions/dbbd.sh"),
        ("zsh", ".zfunc/_dbbd"),
        ("fish", ".config/fish/completions/dbbd.fish"),
    ],
)
def test_install(shell: str, file: str, process_environment: Mapping[str, str], tmp_path: Path) -> None:
    environment = {**process_environment, "HOME": str(tmp_path)}
    # Without a command after dbbd, the shell would replace itself by dbbd instead of being its parent.
    process = subprocess.run(
        [need(shell), "-c", "dbbd --install-completion; true"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path / file) in process.stdout
    assert (tmp_path / file).read_text() == completion_scripts.script(shell)


def test_installed_in_bash_it_completes(process_environment: Mapping[str, str], tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect")
    environment = {**process_environment, "HOME": str(tmp_path), "TERM": "dumb"}
    bash = need("bash")
    subprocess.run([bash, "-c", "dbbd --install-completion; true"], env=environment, capture_output=True, check=True)
    terminal = pexpect.spawn(bash, ["-i"], env=environment, encoding="utf-8", dimensions=(24, 160), timeout=20)
    terminal.send("dbbd smo\t")
    terminal.expect_exact("dbbd smoke ")
    terminal.close(force=True)


def test_show(process_environment: Mapping[str, str]) -> None:
    process = subprocess.run(
        [need("bash"), "-c", "dbbd --show-completion; true"],
        env=process_environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert process.stdout == (FOLDER / "dbbd.bash").read_text()


def test_unknown_shell(run: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("elvish", "/usr/bin/elvish"))
    result = run("--show-completion")  # type: ignore[operator]
    assert result.exit_code == 2
    assert "elvish" in result.stderr
