"""Worker processes prepare the same rows as one process, and survive images that crash, hang or fill the memory."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from tars import write_shards

from dbbd_cli.core.errors import DataError, DiskError
from dbbd_cli.data.images import processes as image_processes
from dbbd_cli.data.images.processes import index_in_workers, prepare_image, prepare_in_workers, prepare_rows
from dbbd_cli.data.images.qr_code import render_qr
from dbbd_cli.data.images.refs import ImageRef
from dbbd_cli.data.images.shard_index import Keys, read_index
from dbbd_cli.data.urls.cleaning import url_sha256

REPOSITORY = Path(__file__).parents[4]
SIZE = 16


def url_refs(count: int) -> list[ImageRef]:
    urls = [f"site.example/page/{index}" for index in range(count)]
    return [ImageRef(url_sha256(url), url=url) for url in urls]


class Work:
    """A cache file, and jobs of 4 images to fill it."""

    def __init__(self, path: Path, refs: list[ImageRef]) -> None:
        self.refs = refs
        self.path = path
        self.shape = (len(refs), 1 if refs[0].url else 3, SIZE, SIZE)
        self.jobs = [(start, refs[start : start + 4]) for start in range(0, len(refs), 4)]
        path.write_bytes(bytes(int(np.prod(self.shape))))
        self.results = prepare_in_workers(path, self.shape, self.jobs)

    def pixels(self) -> np.ndarray:
        return np.memmap(self.path, dtype=np.uint8, mode="r", shape=self.shape)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Work]:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return lambda refs: Work(tmp_path / "pixels", refs)


def workers_of(parent: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in parent.children(recursive=True):
        try:
            if any("images.processes" in word for word in child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def test_rows_are_those_of_one_process(work: Callable[..., Work], tmp_path: Path) -> None:
    made = work(url_refs(18))
    assert sorted(count for count, _ in made.results) == [2, 4, 4, 4, 4]
    alone = np.zeros(made.shape, np.uint8)
    assert list(prepare_rows(alone, enumerate(made.refs))) == [None] * 18
    assert np.array_equal(made.pixels(), alone)
    assert workers_of(psutil.Process()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_unicode_are_read_and_bad_content_is_reported(
    work: Callable[..., Work], tmp_path: Path
) -> None:
    refs = []
    for name, good in ((b"\xff\xfe.png", True), (b"bad\xff.png", False), (b"gone\xff.png", None)):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        if good:
            Image.new("RGB", (9, 9), (1, 2, 3)).save(path)
        else:
            path.write_bytes(b"text")
        refs.append(ImageRef(hashlib.sha256(path.read_bytes()).hexdigest(), path=str(path)))
    path.unlink()
    made = work(refs)
    [(count, problems)] = list(made.results)
    assert count == 3
    assert {row: tuple(problem) for row, problem in problems.items()} == {
        1: ("not an image, damaged, or in an unsupported format", True),
        2: ("cannot be read: No such file or directory", False),
    }
    assert (made.pixels()[0] == np.array([1, 2, 3]).reshape(3, 1, 1)).all()


def test_processes_that_are_killed_are_replaced(work: Callable[..., Work]) -> None:
    made = work(url_refs(400))
    results = [next(made.results)]
    killed = workers_of(psutil.Process())
    assert killed
    for worker in killed:
        worker.kill()
    results += made.results
    assert sum(count for count, _ in results) == 400
    assert all(problems == {} for _, problems in results)
    assert np.array_equal(made.pixels()[399, 0], render_qr("site.example/page/399", SIZE))
    assert workers_of(psutil.Process()) == []


def test_shards_are_indexed_each_in_one_process(tmp_path: Path) -> None:
    shards = [(tmp_path / f"cache/shard-{place}.arrays", tmp_path / f"s/a-0{place}.tar") for place in range(4)]
    write_shards(tmp_path / "s", (3, 2, 4))
    (tmp_path / "s" / "a-03.tar").write_bytes(b"no tar" * 1000)
    assert dict(index_in_workers(shards, Keys("label", None))) == {
        **dict.fromkeys(range(3), ""),
        3: "is not a tar file, or is damaged",
    }
    for place, size in enumerate((3, 2, 4)):
        index = read_index(shards[place][0])
        assert index is not None
        assert len(index.names) == size
    assert workers_of(psutil.Process()) == []


def test_an_index_that_cannot_be_written_is_a_disk_error(tmp_path: Path) -> None:
    write_shards(tmp_path / "s", (2,))
    (tmp_path / "cache").touch()
    jobs = [(tmp_path / "cache" / "shard-0.arrays", tmp_path / "s" / "a-00.tar")]
    with pytest.raises(DiskError, match=r"the cache .* cannot be written"):
        list(index_in_workers(jobs, Keys("label", None)))


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped there")
def test_a_process_that_is_stopped_is_replaced(work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_processes, "IMAGE_SECONDS", 1.5)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    made = work(url_refs(400))
    results = [next(made.results)]  # so that it has begun
    [worker] = workers_of(psutil.Process())
    worker.suspend()
    results += made.results
    assert sum(count for count, _ in results) == 400
    assert all(problems == {} for _, problems in results)
    assert workers_of(psutil.Process()) == []


def started_with(change: str) -> str:
    """Return code of a worker whose `prepare_image` is `change`, a function of the original and a reference."""
    start, imported, _ = image_processes._START.partition("from")
    assert imported
    return (
        f"{start}import os, signal, time; import dbbd_cli.data.images.processes as w; prepare = w.prepare_image; "
        f"w.prepare_image = lambda ref, size: ({change})(lambda: prepare(ref, size), ref); w.main()"
    )


@pytest.mark.parametrize(
    ("harm", "reason", "bad"),
    [
        ("time.sleep(600)", "did not respond for 1.5 s", (5,)),
        ("os._exit(9)", "ended unexpectedly (exit code 9)", (5, 7)),
    ],
)
def test_images_that_crash_their_process_are_named_and_the_others_prepared(
    harm: str, reason: str, bad: tuple[int, ...], work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_processes, "IMAGE_SECONDS", 1.5)
    names = tuple(f"/{row}" for row in bad)
    change = f"lambda prepare, ref: {harm} if ref.url.endswith({names}) else prepare()"
    monkeypatch.setattr(image_processes, "_START", started_with(change))
    made = work(url_refs(12))
    problems = {row: tuple(problem) for _, found in made.results for row, problem in found.items()}
    assert problems == dict.fromkeys(bad, (f"the process that prepared it {reason}", False))
    for row in (4, 6, 8, 11):
        assert np.array_equal(made.pixels()[row, 0], render_qr(f"site.example/page/{row}", SIZE))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce the limit")
def test_an_image_that_fills_the_memory_is_named_and_the_others_prepared(
    work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    change = "lambda prepare, ref: bytearray(2 << 30) if ref.url.endswith('/2') else prepare()"
    monkeypatch.setattr(image_processes, "_START", started_with(change))
    made = work(url_refs(4))
    [(_, problems)] = made.results
    assert problems == {2: ("the process that prepared it ended unexpectedly (exit code 1)", False)}
    assert np.array_equal(made.pixels()[3, 0], render_qr("site.example/page/3", SIZE))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce the limit")
def test_a_picture_that_fills_the_memory_is_reported(
    work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = image_processes._START.replace("main()", "p.MEMORY_BYTES = 8 << 20; p.main()")
    start = start.replace(
        "from dbbd_cli.data.images.processes import main", "import dbbd_cli.data.images.processes as p"
    )
    monkeypatch.setattr(image_processes, "_START", start)
    refs = []
    for name, side in (("large.png", 4000), ("small.png", 40)):
        Image.new("RGB", (side, side)).save(tmp_path / name)
        refs.append(ImageRef(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest(), path=str(tmp_path / name)))
    [(_, problems)] = work(refs).results
    assert problems == {0: ("needs too much memory to decode", False)}


def test_other_bad_images_of_the_same_job_are_reported_too(
    work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        image_processes, "_START", started_with("lambda prepare, ref: os._exit(9) if ref.url == '2' else prepare()")
    )
    refs = [ImageRef(url_sha256(str(row)), url=str(row)) for row in range(4)]
    refs[1] = ImageRef(url_sha256("1"), url="another")
    [(count, problems)] = list(work(refs).results)
    assert count == 4
    assert sorted(problems) == [1, 2]
    assert "SHA-256" in problems[1].reason


def test_the_last_output_of_a_process_is_in_the_error(
    work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(image_processes, "_START", "raise SystemExit('no module named numpy')")
    with pytest.raises(DataError, match="exit code 1") as caught:
        list(work(url_refs(8)).results)
    assert caught.value.details == ["no module named numpy"]
    assert capfd.readouterr().err == ""


def test_an_unexpected_error_is_reported(work: Callable[..., Work]) -> None:
    made = work(url_refs(8))
    made.path.unlink()
    with pytest.raises(DataError) as caught:
        list(made.results)
    assert caught.value.details[0].startswith("FileNotFoundError")


def test_a_missing_python_is_reported(work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(DataError, match="cannot be started") as caught:
        list(work(url_refs(8)).results)
    assert "/no/such/python" in caught.value.hint


def test_what_decoders_print_reaches_neither_the_terminal_nor_the_replies(
    work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    noisy = "lambda prepare, ref: (os.write(1, b'noise\\n'), os.write(2, b'noise\\n'), prepare())[2]"
    monkeypatch.setattr(image_processes, "_START", started_with(noisy))
    made = work(url_refs(12))
    assert [problems for _, problems in made.results] == [{}, {}, {}]
    assert np.array_equal(made.pixels()[11, 0], render_qr("site.example/page/11", SIZE))
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_ends_the_processes_immediately(work: Callable[..., Work]) -> None:
    threads = threading.active_count()
    made = work(url_refs(40_000))
    next(made.results)
    assert len(workers_of(psutil.Process())) == 2
    with pytest.raises(KeyboardInterrupt):
        made.results.throw(KeyboardInterrupt())
    assert workers_of(psutil.Process()) == []
    deadline = time.monotonic() + 20
    while threading.active_count() > threads:
        assert time.monotonic() < deadline, "a thread is still running"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has groups of processes, not sessions")
def test_ctrl_c_of_the_terminal_does_not_reach_the_processes(work: Callable[..., Work]) -> None:
    made = work(url_refs(4000))
    next(made.results)
    workers = workers_of(psutil.Process())
    assert workers
    assert os.getsid(0) not in {os.getsid(worker.pid) for worker in workers}
    made.results.close()


def test_modules_in_the_current_folder_are_not_imported(
    work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    assert list(work(url_refs(4)).results) == [(4, {})]


def test_a_worker_ends_with_its_input() -> None:
    worker = image_processes._Worker()
    try:
        worker.process.stdin.close()
        worker.process.wait(timeout=20)
        assert worker.process.returncode == 0
    finally:
        worker.kill()
        worker.close()


def unguarded_script(folder: Path, count: int) -> list[str]:
    """Write a script without `if __name__ == "__main__"`, as users do."""
    script = folder / "script.py"
    script.write_text(
        "import os\n"
        "from pathlib import Path\n"
        "from dbbd_cli.data.images.cache import prepare_images\n"
        "from dbbd_cli.data.images.refs import ImageRef\n"
        "from dbbd_cli.data.urls.cleaning import url_sha256\n"
        "from dbbd_cli.core.progress import Silent\n"
        "os.cpu_count = lambda: 2\n"
        "print('start', flush=True)\n"
        f"refs = [ImageRef(url_sha256(str(i)), url=str(i)) for i in range({count})]\n"
        f"print(prepare_images(refs, {SIZE}, Path('cache'), Silent()).shape)\n"
    )
    return [sys.executable, str(script)]


def test_a_script_without_a_main_guard_works(tmp_path: Path) -> None:
    ended = subprocess.run(
        unguarded_script(tmp_path, 520),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout.splitlines() == ["start", f"(520, 1, {SIZE}, {SIZE})"]
    assert (ended.stderr, ended.returncode) == ("", 0)


def test_a_parent_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    parent = psutil.Popen(
        unguarded_script(tmp_path, 20_000),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    workers: list[psutil.Process] = []
    try:
        end = time.monotonic() + 60
        while len(workers) < 2 and time.monotonic() < end:
            time.sleep(0.05)
            workers = workers_of(parent)
        assert len(workers) == 2
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    for worker in alive:
        worker.kill()
    assert not alive


@pytest.mark.parametrize("ref", [ImageRef(url_sha256("a.example"), url="b.example"), ImageRef("", url="a.example")])
def test_a_url_that_does_not_match_its_hash_is_rejected(ref: ImageRef) -> None:
    with pytest.raises(DataError, match="another URL"):
        prepare_image(ref, SIZE)
    [problem] = prepare_rows(np.zeros((1, 1, SIZE, SIZE), np.uint8), [(0, ref)])
    assert problem is not None
    assert not problem.lasting


def test_workers_import_nothing_heavy() -> None:
    code = (
        "import sys; import dbbd_cli.data.images.processes; "
        "print({'torch', 'torchvision', 'pydantic', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
