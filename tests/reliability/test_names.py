"""Hostile names do no harm where they are shown or followed: on the terminal, in pages and logs, as paths and links."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image
from program import TINY, environment, without
from typer.testing import CliRunner

from dbbd_cli.cli.app import app
from dbbd_cli.engine.checkpoint.files import BEST, NEWEST, load_checkpoint, previous_name
from dbbd_cli.model.digest import write_sealed

REPOSITORY = Path(__file__).parents[2]
TITLE, CLEAR, C1_CLEAR = "\x1b]0;owned\x07", "\x1b[2J\x1b[H", "\x9b2J"
BIDI, ZERO_WIDTH = "\u202egnp.exe", "ze\u200bro\u2060wi\ufeffdth\u200d"
SCRIPT = "<script>alert(1)</script>"
CONTROLLING = (TITLE, CLEAR, C1_CLEAR, "bell\a", "two\nlines", "re\rturn", "tab\tbed", "line\u2028break", "del\x7f")
MISLEADING = (BIDI, ZERO_WIDTH, "left\u2066right\u2069", "tag\U000e0041", "soft\u00adhyphen", "blank\u3164")
MARKED_UP = (
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt;",
    "$x^2$ $\\frac{",
    "[red]x[-red]",
    "{0}%s%n",
    "=cmd|calc",
    "`id`$(id)",
)
OUTSIDE = ("../up", "../../up", "/tmp/up", "a/../../up", "~/up", "..", ".")
RAW = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\u00ad\ufeff\U000e0000-\U000e007f]"
)
"""What must not reach a terminal, a page or a log unescaped."""
DOCUMENTED = (0, 2, 3, 4, 6)


def dbbd(*arguments: str | Path) -> tuple[int, str, str]:
    """Run a command in this process; return exit code and both streams."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def picture_options(folder: Path) -> list[str]:
    return [*without(TINY["image_classification"], "data.sample_per_class"), "--epochs", "1", "--set",
            f"run.runs_dir={folder / 'runs'}", "--set", f"data.cache_dir={folder / 'cache'}"]  # fmt: skip


def make_pictures(root: Path, classes: tuple[str, ...], names: tuple[str, ...] = ()) -> None:
    for label, kind in enumerate(classes):
        (root / kind).mkdir(parents=True)
        for number in range(5):
            name = f"{number}{names[number] if number < len(names) else ''}.png"
            Image.new("RGB", (40, 30), (label * 15, number * 40, 9)).save(root / kind / name)


def everything(folder: Path, *left_out: Path) -> dict[str, str]:
    """Return every file and link in a folder, with a digest of its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if any(path == out or out in path.parents for out in left_out):
            continue
        if path.is_symlink():
            found[str(path)] = f"link to {os.readlink(path)}"  # noqa: PTH115
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path)] = "folder"
    return found


class Page(HTMLParser):
    """Collects what a browser would interpret as markup."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run on pictures with hostile names, evaluated and plotted, and a run on hostile scenes."""
    folder = tmp_path_factory.mktemp("names")
    make_pictures(folder / "pictures", (*MISLEADING, *MARKED_UP), (SCRIPT.replace("/", "-"), *MISLEADING))
    before = os.environ.get("DBBD_CACHE_DIR")
    os.environ["DBBD_CACHE_DIR"] = str(folder / "cache")
    yield folder
    os.environ.pop("DBBD_CACHE_DIR")
    if before is not None:
        os.environ["DBBD_CACHE_DIR"] = before


@pytest.fixture(scope="module")
def hostile_run(home: Path) -> Path:
    """The output of the commands is in `home/printed`."""
    printed = []
    values = yaml.safe_load((REPOSITORY / "configs" / "smoke_qr.yaml").read_text())
    classes = {name: str(home / "pictures" / name) for name in (*MISLEADING, *MARKED_UP)}
    values["data"] = {**values["data"], "source": "classes", "classes": classes}
    config = home / f"{BIDI}.yaml"
    config.write_text(yaml.safe_dump(values))
    code, *streams = dbbd("train", "--config", config, *picture_options(home)[2:])
    assert code == 0, streams
    printed += streams
    (run_folder,) = (home / "runs").iterdir()
    for arguments in (
        ["evaluate", run_folder],
        ["plot", run_folder, "--format", "html"],
        ["evaluate", run_folder, "--split", "val", "--json", "--no-plots"],
    ):
        code, *streams = dbbd(*arguments)
        assert code == 0, streams
        printed += streams
    (home / "printed").write_text("\n".join(printed), encoding="utf-8", errors="surrogatepass")
    return run_folder


def test_hostile_names_are_printed_escaped(home: Path, hostile_run: Path, report: Callable[[str], None]) -> None:
    printed = (home / "printed").read_text(encoding="utf-8")
    assert not RAW.search(printed), ascii(RAW.search(printed))
    assert "\\u202egnp.exe" in printed
    assert "\u3164" not in printed
    assert "[red]x[-red]" in printed
    report(f"{len(printed):,} characters on both streams")


def test_pages_and_figures_contain_no_markup_from_names(hostile_run: Path) -> None:
    text = (hostile_run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "link", "a"}
    assert not {name for name in page.attributes if name.startswith("on")}
    assert not RAW.search(text)


def test_plots_go_to_the_given_folder_and_contain_no_markup_from_names(hostile_run: Path, tmp_path: Path) -> None:
    run_folder, out = tmp_path / "run", tmp_path / f"{BIDI}{MARKED_UP[2]}"
    shutil.copytree(hostile_run, run_folder, ignore=shutil.ignore_patterns("evaluation.json", "*.pth"))
    before = everything(tmp_path)
    code, printed, err = dbbd("plot", run_folder, "--format", "svg", "--out", out)
    assert code == 0, err
    assert not RAW.search(printed + err), ascii(printed + err)
    assert everything(tmp_path, out) == before
    (drawing,) = out.iterdir()
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(drawing).iter()}
    assert not tags & {"script", "foreignObject", "a"}
    assert not RAW.search(drawing.read_text(encoding="utf-8"))


def test_logs_have_one_entry_per_line_with_names_escaped(hostile_run: Path) -> None:
    lines = (hostile_run / "run.log").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    for name in ("run.log", "history.jsonl", "splits.json", "evaluation.json", "environment.json", "config.yaml"):
        text = (hostile_run / name).read_text(encoding="utf-8")
        assert not RAW.search(text), name
    for row in (hostile_run / "history.jsonl").read_text().splitlines():
        assert isinstance(json.loads(row), dict)


def test_tensorboard_shows_names_escaped(hostile_run: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (path,) = hostile_run.glob("events.*")
    texts = [str(event) for event in EventFileLoader(str(path)).Load()]
    content = path.read_bytes().decode("utf-8", "ignore")
    names = [name for name in (*MISLEADING, *CONTROLLING) if name in content]
    assert len(texts) > 3
    assert not names, ascii(names)


def test_a_terminal_with_progress_bars_shows_names_escaped(home: Path, tmp_path: Path) -> None:
    """Progress bars while pictures are read, and an error that names a picture per line."""
    pexpect = pytest.importorskip("pexpect")
    if sys.platform == "win32":
        pytest.skip("no pseudo-terminals")
    root = tmp_path / "pictures"
    shutil.copytree(home / "pictures", root)
    for kind in root.iterdir():
        (kind / f"bad{kind.name}.png").write_bytes(b"bad")
    options = [*picture_options(tmp_path), "--set", "data.source=folder", "--set", f"data.path={root}"]
    child = pexpect.spawn(
        sys.executable, ["-m", "dbbd_cli", "train", *options, "--progress", "rich"],
        env={**environment(PYTHONPATH=str(REPOSITORY)), "TERM": "xterm", "NO_COLOR": ""},
        cwd=str(home), dimensions=(50, 120), encoding="utf-8", timeout=180,
    )  # fmt: skip
    printed = child.read()
    child.close()
    assert child.exitstatus == 3, printed
    assert "\x1b[" in printed
    assert "\\u202egnp.exe" in printed
    codes = set(re.findall(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[^\[])", printed))
    assert all(re.fullmatch(r"\x1b\[(\?25[hl]|[0-9;]*[mKAGC])", code) for code in codes), codes
    rest = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r]", "", printed)
    assert not RAW.search(rest), ascii(RAW.search(rest))


def refused(home: Path, full: bool) -> Iterator[tuple[str, list[str | Path]]]:
    """Return commands with arguments that do not exist or are not allowed."""
    train = ["train", *picture_options(home)]
    sources = {"folder": "data.source=folder", "urls": "data.source=urls"}
    for text in (*CONTROLLING, *MISLEADING, *OUTSIDE, SCRIPT, *MARKED_UP):
        if text != "blank\u3164":  # a letter, but an invisible one: shown escaped
            yield f"run name {text!r}", [*train, "--run-name", text]
        yield f"config {text!r}", ["train", "--config", text]
        yield f"key {text!r}", [*train, "--set", f"data.{text}=1"]
        yield f"value {text!r}", [*train, "--set", f"training.scheduler={text}"]
        yield f"option {text!r}", ["train", f"--{text}"]
        yield f"command {text!r}", [f"x{text}"]
        yield f"column {text!r}", [*train, "--set", sources["urls"], "--set", f"data.path={home / 'urls.csv'}",
                                   "--set", f"data.label_column={json.dumps('x' + text)}"]  # fmt: skip
        for command in ("resume", "evaluate", "validate", "plot")[: 4 if full else 1]:
            yield f"{command} {text!r}", [command, f"nowhere{text}"]
        yield (
            f"path {text!r}",
            [*train, "--set", sources["folder"], "--set", f"data.path={json.dumps('nowhere' + text)}"],
        )


def test_errors_show_hostile_arguments_escaped(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: Callable[[int, int], int],
    report: Callable[[str], None],
) -> None:
    (home / "urls.csv").write_text("url,x\x1b[2J\nhttps://a,b\n")
    monkeypatch.chdir(tmp_path)
    before = everything(home, home / "runs", home / "bars")
    wrong, tried = [], 0
    every = list(refused(home, full=count(0, 1) == 1))
    for name, arguments in every[:: count(3, 1)]:
        extra = (["--json"], ["--debug"], [])[tried % 3] if not name.startswith("command") else []
        code, out, err = dbbd(*arguments, *extra)
        tried += 1
        if code not in (2, 3, 4):
            wrong.append(f"{name}: exit {code}: {out[-200:]} {err[-200:]}")
        if found := RAW.search(out + err):
            wrong.append(f"{name} {extra}: prints {found[0]!a}: {err[-300:]!a}")
    report(f"{tried} commands, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert everything(home, home / "runs", home / "bars") == before
    assert not list(tmp_path.iterdir())


def test_data_with_names_that_control_a_terminal_is_refused(home: Path, tmp_path: Path) -> None:
    for number, text in enumerate(CONTROLLING):
        root = tmp_path / str(number)
        make_pictures(root / "pictures", ("good", f"bad{text}"))
        code, out, err = dbbd(
            "train", *picture_options(root), "--set", "data.source=folder", "--set", f"data.path={root / 'pictures'}"
        )
        assert code == 3, (text, err)
        assert not RAW.search(out + err), ascii(err)
        for split in ("train", "val"):
            (root / "scenes" / split).mkdir(parents=True)
            for scene in range(2):
                np.savez(
                    root / "scenes" / split / f"good{scene}.npz", coord=np.random.default_rng(scene).random((200, 3))
                )
        (root / "scenes" / "val" / f"bad{text}.npz").write_bytes(b"x")
        code, out, err = dbbd(
            "train", "--config", "smoke_dbbd", "--set", "data.source=folder", "--set", f"data.path={root / 'scenes'}",
            "--set", f"run.runs_dir={root / 'runs'}",
        )  # fmt: skip
        assert code == 3, (text, err)
        assert not RAW.search(out + err), ascii(err)


def test_misleading_names_of_scenes_are_shown_escaped(home: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "scenes" / split).mkdir(parents=True)
        for number, name in enumerate((*MISLEADING[:2], *MARKED_UP[:3])):
            coord = np.random.default_rng(number).random((200, 3))
            np.savez(tmp_path / "scenes" / split / f"{split}{name}.npz", coord=coord, segment=np.arange(200) % 3)
    options = [*without(TINY["dbbd"], "data.synthetic_"), "--epochs", "1", "--set", "data.source=folder"]
    where = ["--set", f"data.path={tmp_path / 'scenes'}", "--set", f"run.runs_dir={tmp_path / 'runs'}"]
    code, *printed = dbbd("train", *options, *where)
    assert code == 0, printed
    (run_folder,) = (tmp_path / "runs").iterdir()
    code, *streams = dbbd("evaluate", run_folder, "--split", "val")
    assert code == 0, streams
    printed += streams
    assert not RAW.search("".join(printed)), ascii(RAW.search("".join(printed)))


LINKED = (
    NEWEST, BEST, previous_name(1), "history.jsonl", "run.log", "run.lock", "run.owner", "config.yaml",
    "environment.json", "splits.json", "evaluation.json", "predictions.csv", "training_history.png", "report.html",
    "confusion_matrix.png", "evaluation-val.json", "training_history.svg", "SYNTHETIC_DATA.txt",
)  # fmt: skip


ALONE = ("run.lock", "run.owner", "run.log")
"""Files that a command refuses if they are links."""


def test_links_in_a_run_folder_are_not_written_through(
    hostile_run: Path, tmp_path: Path, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    """Files that commands write are links to files elsewhere, with valid or arbitrary content."""
    groups = [tuple(name for name in LINKED if name not in ALONE), *[(name,) for name in ALONE]]
    groups += [(name,) for name in LINKED[: count(0, len(LINKED))]]
    wrong, tried = [], 0
    for names in groups:
        copy, victims = tmp_path / "run", tmp_path / "victims"
        shutil.copytree(hostile_run, copy)
        victims.mkdir()
        for name in names:
            content = (copy / name).read_bytes() if (copy / name).exists() else b"precious"
            (victims / name).write_bytes(content)
            (copy / name).unlink(missing_ok=True)
            (copy / name).symlink_to(victims / name)
        before = everything(tmp_path, copy)
        commands = [["resume", copy, "--epochs", "2"], ["evaluate", copy, "--split", "val", "--no-plots"],
                    ["plot", copy, "--format", "svg"], ["plot", copy, "--format", "html"]]  # fmt: skip
        for arguments in commands[: 1 if names[0] in ALONE else count(3, 4)]:
            tried += 1
            code, _, err = dbbd(*arguments, "--quiet")
            if code not in DOCUMENTED:
                wrong.append(f"{names}: {arguments[0]}: exit {code}: {err[-300:]}")
            after = everything(tmp_path, copy)
            if changed := [path for path in before if after.get(path) != before[path]] or list(
                after.keys() - before.keys()
            ):
                wrong.append(f"{names}: {arguments[0]}: WROTE THROUGH A LINK: {changed}")
                break
        shutil.rmtree(copy)
        shutil.rmtree(victims)
    report(f"{sum(map(len, groups))} links, {tried} commands: {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)


def test_hostile_settings_and_file_lists_lead_nowhere(
    hostile_run: Path, tmp_path: Path, count: Callable[[int, int], int]
) -> None:
    """A checkpoint with a valid digest, but settings that point outside, and a list of files that do."""
    copy = tmp_path / "place" / "run"
    shutil.copytree(hostile_run, copy)
    splits = json.loads((copy / "splits.json").read_text())
    state = load_checkpoint(copy / NEWEST)
    for text in (*OUTSIDE, *CONTROLLING, *MISLEADING)[:: count(20, 1)]:
        before = everything(tmp_path, copy)
        config = {**state["config"], "run": {**state["config"]["run"], "name": text}}
        for name in (NEWEST, BEST, previous_name(1)):
            (copy / name).unlink(missing_ok=True)
            write_sealed({**state, "config": config}, copy / name)
        for arguments in (["resume", copy / previous_name(1), "--epochs", "3"], ["validate", copy]):
            code, out, err = dbbd(*arguments, "--quiet")
            assert code in DOCUMENTED, (text, err)
            assert not RAW.search(out + err), ascii(err)
        after = everything(tmp_path, copy)
        made = [path for path in after.keys() - before.keys() if Path(path).parent != copy.parent]
        made = [path for path in made if copy.parent not in Path(path).parents]
        assert not made, (text, made)
        for path in set(copy.parent.iterdir()) - {copy}:
            shutil.rmtree(path)
    for text in (*OUTSIDE[:: count(3, 1)], TITLE, "a\0b"):
        changed = {**splits, "samples": [{**sample, "path": text} for sample in splits["samples"]]}
        (copy / "splits.json").write_text(json.dumps(changed))
        for command in ("evaluate", "validate", "resume"):
            code, out, err = dbbd(command, copy, "--quiet")
            assert code in (2, 3, 4), (text, command, out, err)
            assert not RAW.search(out + err), ascii(err)


def test_links_out_of_the_data_folder_are_not_followed(tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures", ("cat", "dog"))
    Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
    (tmp_path / "pictures" / "cat" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "pictures" / "owl").symlink_to(tmp_path)
    options = [*picture_options(tmp_path), "--set", "data.source=folder", "--set", f"data.path={tmp_path / 'pictures'}"]
    code, _, err = dbbd("train", *options)
    assert code == 3
    assert "link.png" in err
    assert "owl" in err


def test_links_to_scenes_are_read_and_never_written_through(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "scenes"
    for split in ("train", "val", "test"):
        (root / split).mkdir(parents=True)
        (outside / split / "folder").mkdir(parents=True)
        coord = np.random.default_rng(len(split)).random((200, 3))
        np.savez(outside / split / "room.npz", coord=coord, segment=np.arange(200) % 3)
        np.save(outside / split / "folder" / "coord.npy", coord + 1)
        (root / split / "a.npz").symlink_to(outside / split / "room.npz")
        (root / split / "b").symlink_to(outside / split / "folder")
    before = everything(outside)
    options = [*without(TINY["dbbd"], "data.synthetic_"), "--epochs", "1", "--set", "data.source=folder"]
    where = ["--set", f"data.path={root}", "--set", f"run.runs_dir={tmp_path / 'runs'}"]
    cache = ["--set", f"data.cache_dir={tmp_path / 'cache'}"]
    code, *printed = dbbd("train", *options, *where, *cache)
    assert code == 0, printed
    assert "6 scenes are links to places outside the folder." in "".join(printed)
    (run_folder,) = (tmp_path / "runs").iterdir()
    shutil.rmtree(tmp_path / "cache")  # so that the scenes are read again
    for arguments in (["resume", run_folder, "--epochs", "2"], ["evaluate", run_folder, "--no-plots"]):
        code, *printed = dbbd(*arguments, *cache)
        assert code == 0, printed
    assert everything(outside) == before
    secret = tmp_path / "secret"
    secret.write_text("precious " * 20)
    (root / "train" / "secret.ply").symlink_to(secret)
    (root / "train" / "mine").mkdir()
    (root / "train" / "mine" / "coord.npy").symlink_to(outside / "train" / "folder" / "coord.npy")
    code, _, err = dbbd("train", *options, *where, *cache)
    assert code == 3
    assert "secret.ply: is not a PLY file" in err
    assert "has a link, coord.npy, that points outside its folder" in err
    assert "precious" not in err
    code, _, err = dbbd("train", *options, *where, *cache, "--set", "data.follow_links=all")
    assert code == 3
    assert "coord.npy" not in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_names_escaped(tmp_path: Path, shell: str) -> None:
    for number, text in enumerate((*CONTROLLING, *MISLEADING, "plain")):
        (tmp_path / "runs" / f"r{number}{text}").mkdir(parents=True)
        (tmp_path / "runs" / f"r{number}{text}" / "config.yaml").touch()
        (tmp_path / f"r{number}{text}.yaml").touch()
    for words in ("dbbd plot runs/r", "dbbd train --config ")[: 2 if shell == "bash" else 1]:
        parts = words.split(" ")
        env = environment(
            PYTHONPATH=str(REPOSITORY), _DBBD_COMPLETE=f"complete_{shell}", COMP_WORDS=words,
            COMP_CWORD=str(len(parts) - 1), _TYPER_COMPLETE_ARGS=words, _TYPER_COMPLETE_FISH_ACTION="get-args",
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "dbbd_cli"], env=env, cwd=tmp_path, capture_output=True, timeout=60, check=False
        )
        printed = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert not RAW.search(printed), (words, ascii(printed))
        offered = [line for line in printed.splitlines() if line.strip()]
        assert all("lines" not in line for line in offered), offered


def test_the_traceback_of_debug_shows_names_escaped(tmp_path: Path) -> None:
    code, _, err = dbbd("evaluate", tmp_path / f"x{TITLE}{BIDI}", "--debug")
    assert code == 4
    assert "Traceback" in err
    assert not RAW.search(err), ascii(err)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_hostile_repository_runs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of a repository can name programs to run, and dbbd asks git about the current folder."""
    from dbbd_cli.engine.environment import write_environment
    from dbbd_cli.engine.runtime import choose_runtime

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    (tmp_path / ".gitattributes").write_text("* filter=evil diff=evil\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "x")
    script = tmp_path / ".git" / "evil"
    script.write_text(f"#!/bin/sh\ntouch '{tmp_path / 'ran'}'\ncat\n")
    script.chmod(0o755)
    for key in ("core.fsmonitor", "core.sshCommand", "core.pager", "filter.evil.clean", "filter.evil.process",
                "diff.evil.textconv", "diff.external", "core.editor", "gpg.program"):  # fmt: skip
        git("config", key, str(script))
    hooks = tmp_path / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-index-change", "reference-transaction", "post-checkout", "pre-auto-gc", "fsmonitor-watchman"):
        shutil.copy(script, hooks / name)
    git_alone = ("core.repositoryformatversion=1", "extensions.partialClone=origin", "remote.origin.promisor=true")
    fetching = (
        "remote.origin.url=.",
        f"remote.origin.uploadpack=touch '{tmp_path / 'ran'}'; false",
        "alias.rev-parse=!false",
    )
    for setting in (*git_alone, *fetching):
        git("config", *setting.split("=", 1))
    (tmp_path / "ran").unlink(missing_ok=True)
    # The tree is missing, so that git would have to fetch it, and the index is out of date.
    tree = subprocess.run(
        ["git", "rev-parse", "HEAD^{tree}"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.strip()
    (tmp_path / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    os.utime(tmp_path / ".gitattributes", (1, 1))
    (tmp_path / "file").write_text("2")
    monkeypatch.chdir(tmp_path)
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    write_environment(run_folder, ["dbbd"], choose_runtime("cpu", "fp32"))
    assert not (tmp_path / "ran").exists()
    commit = json.loads((run_folder / "environment.json").read_text())["git"]
    assert re.fullmatch(r"[0-9a-f]{40,64}", commit["commit"])
    subprocess.run(["git", "status"], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert (tmp_path / "ran").exists()  # so that the test can fail


def test_the_log_of_a_run_has_one_entry_per_line(tmp_path: Path) -> None:
    from dbbd_cli.runs.folder import RunLog

    log = RunLog(tmp_path, step=0, history=[], command=["dbbd", "train", "--run-name", *CONTROLLING, *MISLEADING])
    log.text("ended by\nan error\x1b[2J")
    log.close()
    text = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert len(text.split("\n")) == 3
    assert not RAW.search(text), ascii(RAW.search(text))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_in_a_run_folder_does_not_block_a_command(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from dbbd_cli.runs.folder import RunLog\n"
    code += "for name in sys.argv[1:]:\n"
    code += "    try: RunLog(Path(name), step=0, history=[], command=[]).close()\n"
    code += "    except OSError as error: assert error.strerror == 'it is not a regular file'\n"
    folders = []
    for name in ("history.jsonl", "run.log"):
        folders.append(tmp_path / name.partition(".")[0])
        folders[-1].mkdir()
        os.mkfifo(folders[-1] / name)
    subprocess.run(
        [sys.executable, "-c", code, *map(str, folders)],
        env=environment(PYTHONPATH=str(REPOSITORY)), timeout=90, capture_output=True, check=True,
    )  # fmt: skip
