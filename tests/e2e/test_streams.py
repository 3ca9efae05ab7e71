"""Standard streams that are full, closed or not read leave the exit codes as documented."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from real_program import environment

DBBD = f"'{sys.executable}' -m dbbd_cli"
VERSION, HELP, MISTAKE = f"{DBBD} --version", f"{DBBD} train --help", f"{DBBD} train --config nosuch --json"
COMPLETION = f"_DBBD_COMPLETE=complete_bash COMP_WORDS='dbbd tr' COMP_CWORD=1 {DBBD}"
TRAIN = (
    f"{DBBD} train --config smoke_qr --set data.sample_per_class=24 --set data.image_size=32 --set data.num_workers=2 "
    "--epochs 1 --no-plots --device cpu"
)
IN_MISSING = """
import json, os, pathlib, sys
commands, gone = sys.argv[1:]
for number, command in enumerate(json.loads(commands)):
    if number:
        os.mkdir(gone)
        os.chdir(gone)
        os.rmdir(gone)
    if any("RUN" in word for word in command):
        (run,) = (pathlib.Path(gone).parent / "runs").iterdir()
        command = [word.replace("RUN", str(run)) for word in command]
    sys.argv[1:] = command
    from dbbd_cli.__main__ import main
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    sys.stdout.flush()
    print(f"END {code}", file=sys.stderr, flush=True)
"""
pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def ended(program: str, where: str, folder: Path, *, unbuffered: bool = False) -> tuple[int, str]:
    """The exit code and the output of a program whose streams are redirected by a shell."""
    env = {**environment(), "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    redirected, pipe, reader = where.partition("|")
    # The subshell keeps the streams of `echo` separate from those of the program.
    line = f"{{ ({program}) {redirected}; echo $? > code; }} {pipe} {reader}"
    done = subprocess.run(["sh", "-c", line], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return int((folder / "code").read_text()), done.stdout.decode()


@pytest.mark.parametrize(
    ("program", "without_room", "otherwise", "unbuffered"),
    [(VERSION, 6, 0, True), (HELP, 6, 0, False), (MISTAKE, 2, 2, False), (COMPLETION, 6, 0, False)],
)
def test_exit_codes(program: str, without_room: int, otherwise: int, unbuffered: bool, tmp_path: Path) -> None:
    places = (">/dev/full", "2>/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", "<&- >&- 2>&-", "2>&1 | true")
    codes = {}
    for where in places:
        codes[where], said = ended(program, where, tmp_path, unbuffered=unbuffered)
        assert "Traceback" not in said
        assert "Exception ignored" not in said
    assert codes == dict.fromkeys(places, otherwise) | dict.fromkeys(places[:3:2], without_room)


@pytest.mark.parametrize(("where", "code"), [("2>&1 | head -1", 0), ("<&- >&- 2>&-", 0), (">/dev/full 2>&1", 6)])
def test_training_continues_if_nobody_reads_its_output(where: str, code: int, tmp_path: Path) -> None:
    found, said = ended(TRAIN, where, tmp_path)
    assert (found, len(said.splitlines()) <= 1) == (code, True)
    (run,) = (tmp_path / "runs").iterdir()
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["kind"] == "epoch"
    assert all(line[:2] == "20" for line in (run / "run.log").read_text().splitlines())
    assert (run / "best_model.pth").exists()


def test_the_current_folder_may_be_missing_if_paths_are_absolute(tmp_path: Path) -> None:
    def in_missing_folder(*commands: str) -> list[tuple[int, str]]:
        """The exit code and the output of each command; all run in one process, which starts in a missing folder."""
        arguments = json.dumps([shlex.split(command) for command in commands])
        command = [sys.executable, "-c", IN_MISSING, arguments, str(tmp_path / "gone")]
        line = f"mkdir gone; cd gone && rmdir ../gone && exec {shlex.join(command)}"
        done = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        parts = re.split(r"END (\d+)\n", done.stdout.decode())
        assert len(parts) == 2 * len(commands) + 1, parts
        return [(int(code), said) for said, code in zip(parts[::2], parts[1::2], strict=False)]

    options = TRAIN.partition("dbbd_cli ")[2] + " --runs-dir"
    trained, evaluated, resumed, *failed = in_missing_folder(
        f"{options} '{tmp_path}/runs'",
        "evaluate --no-plots RUN",
        "resume RUN",
        f"{options} runs",
        f"{options} '{tmp_path}/runs' --set data.source=folder --set data.path=pictures",
        "evaluate RUN --out figures",
        "plot RUN --out figures",
        "plot RUN RUN/..",
        "smoke",
    )
    assert trained[0] == 0, trained
    (run,) = map(str, (tmp_path / "runs").iterdir())
    for code, said in (evaluated, resumed):
        assert (code, "oneMKL" in said) == (0, False), said
        assert said.count(run) == said.count(run.removeprefix("/")) > 0  # the paths shown are absolute, too
    for code, said in failed:
        assert code in (2, 6), said
        assert said.startswith("Error: ")


def test_files_never_get_the_descriptors_of_closed_streams(tmp_path: Path) -> None:
    script = (
        "from dbbd_cli.cli.terminal.streams import open_closed_streams; open_closed_streams();"
        "import os, subprocess, sys; file = open('file', 'w'); print('out'); print('err', file=sys.stderr, flush=True);"
        "os.write(2, b'library'); code = subprocess.call(['sh', '-c', 'echo program; echo program >&2']);"
        "file.write(f'{file.fileno() > 2} {code}')"
    )
    (tmp_path / "script.py").write_text(script)
    for closed in ("<&-", ">&-", "2>&-", "<&- 2>&-", "<&- >&- 2>&-"):
        line = f"'{sys.executable}' script.py {closed}"
        subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment(), check=True, capture_output=True)
        assert (tmp_path / "file").read_text() == "True 0"
