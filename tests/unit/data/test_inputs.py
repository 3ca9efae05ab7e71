"""What an input is, a path or a text, is decided by fixed rules, and no line of a stream can fill the memory."""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path

import pytest

from dbbd_cli.data.inputs import MAX_BYTES, Input, arguments, input_of, lines


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def of_stream(content: bytes) -> list[Input]:
    return [one for block in lines(io.BytesIO(content)) for one in block]


def of_arguments(*given: str, stream: bytes = b"") -> list[Input]:
    return [one for block in arguments(given, io.BytesIO(stream)) for one in block]


def test_an_existing_file_or_folder_is_a_path_and_everything_else_is_text(tmp_path: Path) -> None:
    Path("example.com").mkdir()
    Path("a.png").touch()
    assert input_of("example.com") == Input("example.com", Path("example.com"))
    assert input_of("a.png") == Input("a.png", Path("a.png"))
    assert input_of("example.org") == Input("example.org")


@pytest.mark.parametrize("text", ["scans.old/a.png", "./a.png", "/no-such/a.png", "picturs/", "no-such/a.png"])
def test_the_path_of_a_missing_file(text: str) -> None:
    Path("scans.old").mkdir()
    assert input_of(text) == Input(text, is_missing=True)
    url = f"https://{text}"
    assert input_of(url) == Input(url)


@pytest.mark.parametrize("text", ["example.com/a.png", "host:80/x", "[::1]/x", "user@host/x", "photo.jgp"])
def test_what_may_be_a_url_is_left_to_the_task(text: str) -> None:
    assert input_of(text) == Input(text)


def test_a_text_with_a_scheme_is_never_a_path() -> None:
    Path("https:/example.com").mkdir(parents=True)
    assert os.path.isdir("https://example.com")  # noqa: PTH112
    assert input_of("https://example.com") == Input("https://example.com")
    assert of_arguments("https://example.c*m") == [Input("https://example.c*m")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the text is empty"),
        ("a\0b", "has a control character, a line break, or bytes that are not UTF-8"),
        ("a\nb", "has a control character, a line break, or bytes that are not UTF-8"),
        ("\udcff", "has a control character, a line break, or bytes that are not UTF-8"),
        ("a" * (MAX_BYTES + 1), f"the text is too long: {MAX_BYTES + 1:,} bytes (limit {MAX_BYTES:,})"),
    ],
)
def test_unusable_texts(text: str, problem: str) -> None:
    found = input_of(text)
    assert found.problem == problem
    assert len(found.name) <= 80


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_named_pipe_and_a_broken_link_are_not_opened() -> None:
    os.mkfifo("pipe")
    Path("broken").symlink_to("nowhere")
    assert of_arguments("brok?n") == [Input("broken", problem="is a link to a missing file")]
    for found in (input_of("pipe"), *of_arguments("pip?")):
        assert found == Input("pipe", problem="is neither a regular file nor a folder")


def test_patterns_stand_for_files_that_match_and_are_text_otherwise() -> None:
    for name in ("b.png", "a.png", "[x].png"):
        Path(name).touch()
    assert [one.name for one in of_arguments("?.png")] == ["a.png", "b.png"]
    assert of_arguments("[x].png") == [Input("[x].png", Path("[x].png"))]
    assert of_arguments("example.com/?q=*") == [Input("example.com/?q=*")]
    assert [one.problem for one in of_arguments("*.jpg", "no-such/[ab]?")] == ["no file matches this pattern"] * 2
    assert of_arguments("-", stream=b"*.png\n") == [Input("*.png")], "lines are taken literally"


def test_the_lines_of_a_stream() -> None:
    content = b"\xef\xbb\xbfa.example/\xc3\xa9\r\n\n  \nb.example  \n\xff\n-\nlast"
    names = [one.name for one in of_stream(content)]
    assert names == ["a.example/é", "b.example", "\\udcff", "-", "last"]
    assert [bool(one.problem) for one in of_stream(content)] == [False, False, True, False, False]
    assert of_stream(b"") == []


def test_arguments_keep_their_order() -> None:
    assert [one.name for one in of_arguments("a.example", "-", "b.example", stream=b"1.example\n2.example")] == [
        "a.example", "1.example", "2.example", "b.example",
    ]  # fmt: skip


def test_what_is_available_is_passed_on_before_more_is_awaited() -> None:
    class Slow:
        """Two lines arrive, then half a line, then nothing for a long time."""

        def __init__(self) -> None:
            self.parts = [b"a.example\nb.example\n", b"c.exa"]

        def read1(self, size: int, /) -> bytes:
            if not self.parts:
                raise AssertionError("waits")
            return self.parts.pop(0)

    blocks = lines(Slow())
    assert [one.name for one in next(blocks)] == ["a.example", "b.example"]
    assert next(blocks) == []


def test_a_line_of_ten_megabytes_is_reported_without_being_kept() -> None:
    stream = io.BytesIO(b"a.example\n" + b"x" * 10_000_000 + b"\nb.example\n" + b"y" * 100_000)
    tracemalloc.start()
    found = [one for block in lines(stream) for one in block]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [
        Input("a.example"),
        Input("line 2", problem="the line is too long: 10,000,000 bytes"),
        Input("b.example"),
        Input("line 4", problem="the line is too long: 100,000 bytes"),
    ]
    assert peak < 1_000_000
