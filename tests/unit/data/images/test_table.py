"""A table of paths is a source of images: its classes and splits hold, and no path leaves its folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.candidates import Candidate, Source
from dbbd_cli.data.images.table import list_table
from unit.data.images.test_manifest import Messages, manifest_of

NAMES = ("path", "label", "split")


def write(path: Path, rows: Sequence[Sequence[str]], names: Sequence[str] = NAMES) -> Path:
    """Write a table as CSV or Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names[: len(rows[0])], *rows])
    return path


def listed(path: Path) -> Source:
    return list_table(path, "path", "label", "split")


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_paths_classes_and_splits(tmp_path: Path, name: str) -> None:
    rows = [("b/2.png", "dog", "Test"), ("1.png", "dog", "training"), ("b/1.JPG", "cat", "valid")]
    source = listed(write(tmp_path / name, rows))
    assert source.classes == ("cat", "dog")
    assert source.candidates == [
        Candidate("cat/b/1.JPG", 0, "val"),
        Candidate("dog/1.png", 1, "train"),
        Candidate("dog/b/2.png", 1, "test"),
    ]
    assert source.roots == (tmp_path, tmp_path)
    assert source.problems == []


@pytest.fixture(autouse=True)
def _pictures(tmp_path: Path) -> None:
    """What the tables name."""
    (tmp_path / "b").mkdir()
    for place in ("a.png", "b.png", "1.png", "b/1.JPG", "b/2.png", "c.txt", "d.png", "e.png"):
        (tmp_path / place).touch()


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"path": ["a.png", "b.png", None], "label": [0, 1, 1]}), tmp_path / "t.parquet")
    source = listed(tmp_path / "t.parquet")
    assert source.classes == ("0", "1")
    assert [candidate.split for candidate in source.candidates] == [None, None]
    assert source.problems == ["t.parquet row 3: the path is empty"]


def test_splits_are_optional_and_can_be_left_out(tmp_path: Path) -> None:
    rows = [("a.png", "cat", "x"), ("b.png", "dog", "train")]
    path = write(tmp_path / "list.csv", rows)
    with pytest.raises(DataError, match="only the class dog"):
        listed(path)
    assert {candidate.split for candidate in list_table(path, "path", "label", None).candidates} == {None}
    assert {each.split for each in listed(write(path, [row[:2] for row in rows])).candidates} == {None}


@pytest.mark.parametrize("place", ["../x.png", "/etc/x.png", "b//x.png", "././x.png", "b/../../x.png"])
def test_paths_below_the_folder_only(tmp_path: Path, place: str) -> None:
    source = listed(write(tmp_path / "list.csv", [("./a.png", "cat"), ("b.png", "dog"), (place, "dog")]))
    assert [candidate.key for candidate in source.candidates] == ["cat/a.png", "dog/b.png"]
    assert source.problems == [f"{place}: is not a path relative to the folder of the table, such as a/b.png"]


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes")
def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "folder.png").mkdir()
    rows = [(name, "dog") for name in ("b.png", "pipe.png", "folder.png", "none.png", "x.psd")]
    source = listed(write(tmp_path / "list.csv", [("a.png", "cat"), *rows]))
    assert source.problems == [
        "pipe.png: is not a file",
        "folder.png: is not a file",
        "none.png: cannot be opened: no such file or directory",
        "x.psd: is in an unsupported format",
    ]
    with pytest.raises(DataError, match="is not a regular file"):
        listed(tmp_path / "pipe.parquet")


@pytest.mark.skipif(os.name == "nt", reason="links need permission")
def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "1.png").touch()
    table = write(
        tmp_path / "in" / "list.csv", [("a.png", "cat"), ("b.png", "dog"), ("c/1.png", "dog"), ("d.png", "dog")]
    )
    (table.parent / "a.png").touch()
    (table.parent / "c").symlink_to(tmp_path / "outside")
    (table.parent / "d.png").symlink_to(tmp_path / "outside" / "1.png")
    (table.parent / "b.png").symlink_to(table.parent / "a.png")
    why = "is reached by a link that leads out of the folder of the table"
    assert listed(table).problems == [f"c/1.png: {why}", f"d.png: {why}"]


def test_what_is_not_an_image_or_not_a_split(tmp_path: Path) -> None:
    rows = [("a.png", "cat", "train"), ("b.png", "dog", "train"), ("c.txt", "dog", "val"), ("d.png", "dog", "later")]
    source = listed(write(tmp_path / "list.csv", [*rows, ("e.png", "a/b", "val")]))
    assert source.problems == [
        "c.txt: is not an image, by the end of its name",
        "d.png: its split is later; expected train, val or test",
        "e.png: its class, a/b, has a slash",
    ]


def test_a_table_without_the_columns_says_what_else_it_may_be(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", [("a.example", "bad"), ("b.example", "good")], names=("url", "label"))
    with pytest.raises(DataError) as caught:
        listed(path)
    assert caught.value.message.endswith("has no column path; its columns are: url, label")
    assert caught.value.hint.endswith("--set data.path_column=NAME; for a list of URLs, --set data.source=urls")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "list.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="is not a valid Parquet file"):
        listed(tmp_path / "list.parquet")
    with pytest.raises(DataError, match="does not exist"):
        listed(tmp_path / "none.parquet")


def test_parquet_types_that_are_no_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def problem(label: object) -> str:
        table = pyarrow.table({"path": ["a.png", "b.png"], "label": label})
        parquet.write_table(table, tmp_path / "t.parquet")
        with pytest.raises(DataError) as caught:
            listed(tmp_path / "t.parquet")
        return caught.value.message

    assert "its column label holds struct<n: int64>" in problem([{"n": 1}, {"n": 2}])
    assert "is not a valid Parquet file, or is damaged" in problem(pyarrow.array([b"\xff", b"b"], pyarrow.binary()))
    long = pyarrow.array(["x" * 200_000, "y" * 200_000]).dictionary_encode()
    assert problem(long).endswith("has no usable row: a classifier needs at least two classes")


def test_other_spellings_of_a_column_and_missing_splits_are_reported(tmp_path: Path) -> None:
    rows = [("a.png", "cat", "train"), ("b.png", "dog", "val")]
    path = write(tmp_path / "list.csv", rows, names=("path", "label", "Split"))
    with pytest.raises(DataError, match="has no column split") as caught:
        listed(path)
    assert caught.value.hint == "did you mean Split? If so, choose the column with --set data.split_column=NAME"
    with pytest.raises(DataError, match="has no column fold"):
        list_table(path, "path", "label", "fold", needs_splits=True)


def test_few_samples_are_drawn_from_each_split_in_proportion(table: Path, tmp_path: Path) -> None:
    manifest = manifest_of(listed(table), tmp_path / "cache", per_class=5)
    assert manifest.counts() == {"train": 4, "val": 4, "test": 2}
    assert manifest_of(listed(table), tmp_path / "cache", per_class=1).counts() == {"train": 2, "val": 2, "test": 2}


@pytest.fixture
def table(picture_folder: Callable[..., Path]) -> Path:
    """A table of five pictures of each of two classes in train, three in val and two in test."""
    root = picture_folder(("cat", "dog"), count=10)
    splits = ["train"] * 5 + ["val"] * 3 + ["test"] * 2
    rows = [(f"{name}/{number}.png", name, splits[number]) for name in ("cat", "dog") for number in range(10)]
    return write(root / "list.csv", rows)


def test_the_splits_of_the_table_hold(table: Path, tmp_path: Path) -> None:
    messages = Messages()
    manifest = manifest_of(listed(table), tmp_path / "cache", messages)
    assert manifest.counts() == {"train": 10, "val": 6, "test": 4}
    assert {sample.key for sample in manifest.of("test")} == {
        f"{name}/{name}/{number}.png" for name in ("cat", "dog") for number in (8, 9)
    }
    assert "Using the splits of the data set." in messages.text
    assert not any(text.startswith("warning") for text in messages.text)


def test_copies_in_several_splits_are_reported(table: Path, tmp_path: Path) -> None:
    (table.parent / "cat" / "9.png").write_bytes((table.parent / "cat" / "0.png").read_bytes())
    messages = Messages()
    manifest_of(listed(table), tmp_path / "cache", messages)
    assert "warning: 1 image is in more than one split of the data set: scores will be inflated" in messages.text


def test_each_split_needs_each_class(table: Path, tmp_path: Path) -> None:
    text = table.read_text(encoding="utf-8").replace("dog,test", "dog,val")
    table.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="a class is missing from a split of the data set") as caught:
        manifest_of(listed(table), tmp_path / "cache")
    assert caught.value.details == ["dog: none in test"]
