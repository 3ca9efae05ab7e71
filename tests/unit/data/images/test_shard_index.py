"""The index of a shard names its samples as WebDataset does, and says what is wrong with the others."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from tars import Member, picture, samples, write_tar

from dbbd_cli.data.images import shard_index
from dbbd_cli.data.images.shard_index import Keys, ShardError, ShardIndex, index_shard, read_index, write_index
from dbbd_cli.data.manifest import SPLITS

KEYS = Keys("label", "split")
PNG = picture(1)
GOOD = [("a.png", PNG), ("a.cls", b"cat")]


def indexed(folder: Path, *members: Member, keys: Keys = KEYS, **options: int) -> ShardIndex:
    return index_shard(write_tar(folder / "x.tar", members, **options), keys)


def classes(index: ShardIndex) -> list[str]:
    return [index.classes[label] for label in index.label]


def test_offset_size_and_digest_are_those_of_the_images(tmp_path: Path) -> None:
    members = samples(0, 9)
    index = indexed(tmp_path, *members)
    content = (tmp_path / "x.tar").read_bytes()
    pictures = [data for name, data in members if name.endswith(".png")]
    assert index.names == [f"{number:04}.png" for number in range(9)]
    assert [content[first : first + size] for first, size in zip(index.offset, index.size, strict=True)] == pictures
    assert [row.tobytes() for row in index.sha256] == [hashlib.sha256(data).digest() for data in pictures]
    assert classes(index) == ["cat", "dog"] * 4 + ["cat"]
    assert index.split.tolist() == [-1] * 9
    assert (index.problems, index.ignored, index.unread) == ([], 0, {})


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_sample_may_stand_apart_in_folders_with_long_names_in_any_tar(tmp_path: Path, form: int) -> None:
    long = "b" * 90 + "/" + "c" * 90
    members = [("./b/1.JPG", picture(1, "JPEG")), (f"{long}.png", PNG), ("a/1.png", PNG), ("a/1.cls", b" 3\n")]
    members += [("b/1.cls", b"cat"), (f"{long}.cls", "\ufeffwei\u00df".encode()), ("b/1.txt", b"a caption")]
    index = indexed(tmp_path, *members, format=form)
    assert dict(zip(index.names, classes(index), strict=True)) == {
        "b/1.JPG": "cat",
        f"{long}.png": "wei\u00df",
        "a/1.png": "3",
    }
    assert index.problems == []


def test_a_suffix_begins_at_the_first_dot_of_the_file_name(tmp_path: Path) -> None:
    members = [("v1.0/a.png", PNG), ("v1.0/a.seg.png", PNG), ("v1.0/a.cls", b"cat"), ("my.photo.png", PNG)]
    index = indexed(tmp_path, *members)
    assert index.names == ["v1.0/a.png"]
    assert index.problems == [
        "my: has no image: what follows the first dot of a name is its suffix, .photo.png; rename it"
    ]


def test_class_and_split_may_be_in_json(tmp_path: Path) -> None:
    contents = [{"label": 7, "split": "Valid"}, {"label": "cat", "split": None}, {"kind": "dog"}]
    members = [
        member
        for place, content in enumerate(contents)
        for member in ((f"{place}.png", picture(place)), (f"{place}.json", json.dumps(content).encode()))
    ]
    members += [("2.cls", b"wolf")]
    index = indexed(tmp_path, *members)
    assert classes(index) == ["7", "cat", "wolf"]
    assert [SPLITS[split] if split >= 0 else None for split in index.split] == ["val", None, None]
    other = indexed(tmp_path, *members[4:6], keys=Keys("kind", None))
    assert classes(other) == ["dog"]
    assert indexed(tmp_path, *members[:2], keys=Keys("label", None)).split.tolist() == [-1]


@pytest.mark.parametrize("content", [b"[1, 2]", b"{", b" " * (1 << 20) + b"{}"])
def test_json_that_cannot_be_used_does_not_matter_beside_a_class(tmp_path: Path, content: bytes) -> None:
    index = indexed(tmp_path, ("a.json", content), *GOOD)
    assert (index.names, classes(index), index.problems) == (["a.png"], ["cat"], [])


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("b.png", PNG)], "b: has no class: there is no .cls, and no .json with the key of data.label_column"),
        ([("b.png", PNG), ("b.json", b"{}")], "b: has no class"),
        ([("b.cls", b"cat")], "b: has no image, only .cls"),
        ([("b.png", PNG), ("b.jpg", PNG), ("b.cls", b"cat")], "b: has 2 images: .png, .jpg"),
        ([("b.png", PNG), ("b.cls", b"cat"), ("b.PNG", PNG)], "b: has 2 members .png"),
        ([("b.png", PNG), ("b.cls", b"cat"), ("b.cls", b"cat")], "b: has 2 members .cls"),
        ([("b.png", PNG), ("b.cls", b" \n")], "b: its class is empty"),
        ([("b.png", PNG), ("b.cls", b"\xff\xfe")], "b: its class is empty, too long, not a text"),
        ([("b.png", PNG), ("b.cls", b"x" * 5000)], "b: its class is empty, too long"),
        ([("b.png", PNG), ("b.cls", b"a\x1b[2J")], "b: its class is empty, too long"),
        ([("b.png", PNG), ("b.cls", b"a/b")], "b: its class, a/b, has a slash"),
        ([("b.png", PNG), ("b.json", b"[" * 100_000)], "b: its .json is not a JSON object"),
        ([("b.png", PNG), ("b.json", b"\xff")], "b: its .json is not a JSON object"),
        ([("b.png", PNG), ("b.json", b'{"label": true}')], "b: its class is empty"),
        ([("b.png", PNG), ("b.json", b" " * (1 << 20) + b"{}")], "b: its .json has over 1,048,576 bytes"),
        ([("b.png", PNG), ("b.json", b'{"label": 1, "split": "x"}')], "b: its split is x; expected train, val or test"),
        ([("../../b.png", PNG)], "../../b.png: its name is not a relative path"),
        ([("/etc/b.png", PNG)], "/etc/b.png: its name is not a relative path"),
        ([("b\x1b[2J.png", PNG)], "b\\x1b[2J.png: its name has unprintable characters"),
        ([("\udcff.png", PNG)], "\\udcff.png: its name has unprintable characters"),
        ([("b" * 1100 + ".png", PNG)], "b" * 200 + "…: its name has over 1,000 characters"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_reason(tmp_path: Path, members: list[Member], problem: str) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as tar:
        for name, content in (*members, *GOOD):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    index = index_shard(path, KEYS)
    assert index.names == ["a.png"]
    [found] = index.problems
    assert found.startswith(problem)


def test_what_is_no_sample_is_counted(tmp_path: Path) -> None:
    members = [("README", b""), ("info.json", b"{}"), ("b.txt", b""), ("raw.nef", b""), ("raw.cls", b"cat")]
    members += [("all.json", b"[]"), ("many.json", b" " * (1 << 20) + b"{}"), ("some.json", b'{"split": "2017"}')]
    index = indexed(tmp_path, *members, ("._a.png", b""), ("__MACOSX/a.png", b""), *GOOD)
    assert (index.names, index.problems, index.ignored, index.unread) == (["a.png"], [], 6, {".nef": 1})


def test_links_and_sparse_files_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in GOOD:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind in (("b.png", tarfile.SYMTYPE), ("c.png", tarfile.LNKTYPE), ("d.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            tar.addfile(info)
        folder = tarfile.TarInfo("e")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    index = index_shard(tmp_path / "x.tar", KEYS)
    assert index.names == ["a.png"]
    assert index.problems == [f"{name}: .png is not a regular file" for name in "bcd"]


@pytest.mark.parametrize("size", [2048, 2100, 2560, 2570, 3072, 3100, 4096])
def test_of_a_truncated_shard_the_samples_before_are_used_and_the_end_is_reported(tmp_path: Path, size: int) -> None:
    path = write_tar(tmp_path / "x.tar", [*GOOD, ("b.png", PNG), ("b.cls", b"dog")])  # each of two blocks
    path.write_bytes(path.read_bytes()[:size])
    index = index_shard(path, KEYS)
    assert index.names == (["a.png", "b.png"] if size == 4096 else ["a.png"])
    assert f"is damaged or truncated after byte {size // 1024 * 1024:,}; what follows was left out" in index.problems


def test_damage_in_the_middle_is_reported(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [*GOOD, ("b.png", PNG), ("b.cls", b"dog")])
    content = bytearray(path.read_bytes())
    content[512 * 4 + 10] ^= 1  # in the header of b.png
    path.write_bytes(content)
    index = index_shard(path, KEYS)
    assert index.names == ["a.png"]
    assert index.problems == ["is damaged or truncated after byte 2,048; what follows was left out"]


def test_tar_files_that_were_joined_are_reported(tmp_path: Path) -> None:
    first, second = (write_tar(tmp_path / f"{name}.tar", samples(n, 2)) for n, name in enumerate("xy"))
    (tmp_path / "z.tar").write_bytes(first.read_bytes() + second.read_bytes())
    index = index_shard(tmp_path / "z.tar", KEYS)
    assert index.names == ["0000.png", "0001.png"]
    assert index.problems == ["has more after its end, byte 4,096, as if tar files were joined; it was left out"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"text" * 1000, "is not a tar file, or is damaged"),
        (gzip.compress(b"x" * 2000), "is compressed by gzip; decompress it"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "is compressed by zstd"),
    ],
)
def test_what_is_no_shard_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ShardError, match=reason):
        index_shard(tmp_path / "x.tar", KEYS)


def numbered(size: bytes) -> bytes:
    """A header of a member `b.png` with this field as its size."""
    header = bytearray(tarfile.TarInfo("b.png").tobuf())
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0", b"\xff" * 10 + b"\xfe\x00"])
def test_absurd_sizes_end_the_shard(tmp_path: Path, size: bytes) -> None:
    path = write_tar(tmp_path / "x.tar", GOOD)
    path.write_bytes(path.read_bytes()[:2048] + numbered(size) + bytes(10240))
    index = index_shard(path, KEYS)
    assert index.names == ["a.png"]
    assert index.problems == ["is damaged or truncated after byte 2,048; what follows was left out"]


@pytest.mark.parametrize("size", ["-1024", "-512", "99999999999999", "x", "9" * 5000])
def test_absurd_sizes_in_extended_headers_end_the_shard(tmp_path: Path, size: str) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in GOOD:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo("b.png")
        info.pax_headers = {"size": size, "comment": "x"}
        tar.addfile(info)
    index = index_shard(path, KEYS)
    assert index.names == ["a.png"]
    assert len(index.problems) == 1


def test_a_large_extended_header_is_not_read_into_memory(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", GOOD)
    header = bytearray(numbered(b"%011o\0" % (1 << 32)))
    header[156:157] = tarfile.XHDTYPE
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with path.open("r+b") as file:
        file.seek(2048)
        file.write(header)
        file.truncate(1 << 33)  # sparse
    tracemalloc.start()
    try:
        index = index_shard(path, KEYS)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    assert index.names == ["a.png"]
    assert len(index.problems) == 1


def test_a_shard_of_too_many_members_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_index, "MAX_MEMBERS", 4)
    index = indexed(tmp_path, *samples(0, 3))
    assert len(index.names) == 2
    assert index.problems == ["has more than 4 members; the others were left out: make smaller shards"]


def test_an_index_is_read_from_the_cache_as_it_was_written(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "x.tar", [*samples(0, 5), ("z.cls", b"cat"), ("b.nef", b"")])
    path = tmp_path / "cache" / "shard-1.arrays"
    assert read_index(path) is None
    write_index(path, shard, KEYS)
    found, expected = read_index(path), index_shard(shard, KEYS)
    assert found is not None
    for name, value in expected._asdict().items():
        assert (
            getattr(found, name) == value
            if isinstance(value, (list, dict, int))
            else (getattr(found, name) == value).all()
        )
    shard.unlink()
    write_index(path, shard, KEYS)  # nothing is read
    path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    assert read_index(path) is None


def test_an_empty_shard_has_an_index(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "shard-1.arrays"
    write_index(path, write_tar(tmp_path / "x.tar", []), KEYS)
    index = read_index(path)
    assert index is not None
    assert (index.names, index.problems) == ([], [])
