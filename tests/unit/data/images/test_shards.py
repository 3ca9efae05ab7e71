"""Shards are a source of images like any other; what is in the cache is not read again."""

from __future__ import annotations

import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer
from tars import picture, samples, write_shards, write_tar

from dbbd_cli.core.errors import DataError, DiskError
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.candidates import Source
from dbbd_cli.data.images import shards as shards_module
from dbbd_cli.data.images.cache import PreparedImages
from dbbd_cli.data.images.manifest import prepare_manifest
from dbbd_cli.data.images.processes import _index
from dbbd_cli.data.images.refs import Part
from dbbd_cli.data.images.shard_index import Keys, read_index
from dbbd_cli.data.images.shard_paths import expand_braces
from dbbd_cli.data.images.shards import Shards, list_shards
from dbbd_cli.data.images.sources import list_folder
from dbbd_cli.data.manifest import Manifest, Samples
from dbbd_cli.data.remote import RemoteFile
from dbbd_cli.data.urls.cleaning import UrlCleaning
from unit.data.images.test_manifest import Messages, manifest_of

KEYS = Keys("label", "split")


def listed(path: Path | str, cache: Path) -> Source:
    return list_shards(Shards(str(path), KEYS, cache), Silent())


def prepared(
    manifest: Manifest, path: Path | str, cache: Path, progress: Silent | None = None
) -> tuple[PreparedImages, Samples]:
    return prepare_manifest(
        replace(manifest, is_new=False),  # as that of an earlier start
        splits=("train", "val", "test"),
        roots=[],
        cleaning=UrlCleaning(),
        image_size=32,
        cache_dir=cache,
        progress=progress or Silent(),
        shards=Shards(str(path), KEYS, cache),
    )


@pytest.fixture(autouse=True)
def _index_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes take long to start; `test_processes` tests them."""

    def index(shards: Sequence[tuple[Path, Path]], keys: Keys) -> Iterator[tuple[int, str]]:
        for place, (path, shard) in enumerate(shards):
            yield place, _index(path, shard, keys)[0]

    monkeypatch.setattr(shards_module, "index_in_workers", index)


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes reading a shard fail the test from then on."""

    def forbid() -> None:
        monkeypatch.setattr(shards_module, "index_in_workers", lambda *_: pytest.fail("a shard was read"))
        monkeypatch.setattr("dbbd_cli.data.images.processes._in_workers", lambda *_: pytest.fail("decoded again"))

    return forbid


def test_samples_stand_in_the_order_of_their_shards(tmp_path: Path) -> None:
    source = listed(write_shards(tmp_path / "s", (2, 3)), tmp_path / "cache")
    assert (source.kind, source.classes, source.problems) == ("shards", ("cat", "dog"), [])
    assert [(each.key, each.label, each.split) for each in source.candidates] == [
        ("cat/a-00.tar/0000.png", 0, None),
        ("dog/a-00.tar/0001.png", 1, None),
        ("cat/a-01.tar/0002.png", 0, None),
        ("dog/a-01.tar/0003.png", 1, None),
        ("cat/a-01.tar/0004.png", 0, None),
    ]


@pytest.mark.parametrize("path", ["a-{00..02}.tar", "a-0{0,1,2}.tar", "", "{a-00,a-{01..02}}.tar"])
def test_shards_are_a_folder_or_a_pattern(tmp_path: Path, path: str) -> None:
    folder = write_shards(tmp_path / "s")
    if "{a" in path:
        with pytest.raises(DataError, match="braces that cannot be expanded"):
            listed(folder / path, tmp_path / "cache")
        return
    assert len(listed(folder / path, tmp_path / "cache").candidates) == 24


def test_braces_expand_as_in_a_shell() -> None:
    assert expand_braces("s3://b/{x,y}-{08..10}.tar") == [
        f"s3://b/{name}-{number}.tar" for name in "xy" for number in ("08", "09", "10")
    ]
    assert expand_braces("{2..0}{a}") == ["2{a}", "1{a}", "0{a}"]
    for endless in ("{0..999999999999999}", "{0..99999}{0..9}"):
        with pytest.raises(DataError, match="more than 100,000 shards"):
            expand_braces(endless)


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", samples(0, 36, ("10", "9", "x", "007")))
    assert listed(path, tmp_path / "cache").classes == ("007", "9", "10", "x")


def test_very_many_shards_are_named_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "remote_files", lambda urls: [RemoteFile(url, 1, "") for url in urls])
    pattern = "s3://bucket/a-{00000..49999}.tar"
    assert len(Shards(pattern, KEYS, tmp_path)._shards()) == 50_000  # minutes if the names were compared in pairs
    with pytest.raises(DataError, match=r"the shard name a-00001\.tar occurs twice"):
        Shards("s3://bucket/a-{00000,00001,00001}.tar", KEYS, tmp_path)._shards()


def test_shards_of_several_folders_have_names_of_their_own(tmp_path: Path) -> None:
    for place, name in enumerate("xy"):
        write_tar(tmp_path / name / "a.tar", samples(4 * place, 4))
    source = listed(f"{tmp_path}/{{x,y}}/a.tar", tmp_path / "cache")
    assert [each.key for each in source.candidates][3:5] == ["dog/x/a.tar/0003.png", "cat/y/a.tar/0004.png"]
    assert source.shards is not None
    assert [ref.path for ref in source.shards.locate(["cat/y/a.tar/0004.png"], Silent())] == [
        f"{tmp_path}/y/a.tar/0004.png"
    ]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none", "none does not exist"),
        ("none.tar", "none.tar does not exist"),
        ("a-{00..04}.tar", "2 of the 5 shards of data.path .* do not exist"),
        ("empty", "empty contains no .tar files"),
        ("folder.tar", "not a regular file|cannot be opened"),
        ("links", "links/broken.tar does not exist"),
    ],
)
def test_missing_shards_are_named(tmp_path: Path, path: str, message: str) -> None:
    write_shards(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.tar.gz").touch()
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "broken.tar").symlink_to("nowhere")
    with pytest.raises(DataError, match=message) as caught:
        listed(tmp_path / path, tmp_path / "cache")
    assert path != "empty" or "decompress" in caught.value.hint


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [*samples(0, 3, ("cat",)), ("x.png", picture(9))])
    with pytest.raises(DataError, match="only the class cat: a classifier needs at least two classes") as caught:
        listed(path, tmp_path / "cache")
    assert caught.value.details == [
        "x.tar: x: has no class: there is no .cls, and no .json with the key of data.label_column"
    ]


def test_problems_end_the_run_or_are_skipped_like_those_of_files(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    write_tar(folder / "a-03.tar", [("x.png", picture(700)), ("y.png", b"no image"), ("y.cls", b"cat")])
    (folder / "a-04.tar").write_bytes(b"no shard" * 100)
    with pytest.raises(DataError, match="3 images cannot be used") as caught:
        manifest_of(listed(folder, tmp_path / "cache"), tmp_path / "cache")
    assert caught.value.details == [
        "a-04.tar: is not a tar file, or is damaged",
        "a-03.tar: x: has no class: there is no .cls, and no .json with the key of data.label_column",
        f"{folder}/a-03.tar/y.png: not an image, damaged, or in an unsupported format",
    ]
    manifest = manifest_of(listed(folder, tmp_path / "cache"), tmp_path / "cache", on_error="skip")
    assert (len(manifest.samples), len(manifest.skipped)) == (24, 3)


def test_duplicates_in_different_shards_stay_together(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    copies = [
        (f"copy{number}{suffix}", content)
        for number in range(5)
        for suffix, content in ((".png", picture(3)), (".cls", b"dog"))
    ]
    write_tar(folder / "a-03.tar", copies)
    messages = Messages()
    manifest = manifest_of(listed(folder, tmp_path / "cache"), tmp_path / "cache", messages)
    assert len({each.split for each in manifest.samples if "copy" in each.key or "/0003.png" in each.key}) == 1
    assert any("5 images are duplicates" in text for text in messages.text)


def test_splits_of_json_are_used_and_must_be_complete(tmp_path: Path) -> None:
    members = []
    for number in range(18):
        text = f'{{"label": {number % 2}, "split": "{("train", "val", "test")[number // 6]}"}}'
        members += [(f"{number}.png", picture(number)), (f"{number}.json", text.encode())]
    write_tar(tmp_path / "s" / "x.tar", members)
    manifest = manifest_of(listed(tmp_path / "s", tmp_path / "cache"), tmp_path / "cache")
    assert manifest.counts() == {"train": 6, "val": 6, "test": 6}
    assert manifest.samples[17].key == "1/x.tar/17.png"
    assert manifest.samples[17].split == "test"
    write_tar(tmp_path / "s" / "y.tar", [("a.png", picture(20)), ("a.cls", b"1")])
    source = listed(tmp_path / "s", tmp_path / "cache")
    assert source.problems == ["y.tar: a.png: has no split, and others have"]


def test_pixels_are_those_of_the_same_images_in_folders(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    for number in range(24):
        path = tmp_path / "files" / ("cat", "dog")[number % 2] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    manifest = manifest_of(listed(folder, tmp_path / "cache"), tmp_path / "cache")
    images, of_shards = prepared(manifest, folder, tmp_path / "cache")
    in_files = manifest_of(list_folder(tmp_path / "files"), tmp_path / "other")
    expected, of_files = prepare_manifest(
        in_files, splits=("train",), roots=[Path(root) for root in in_files.roots], cleaning=UrlCleaning(),
        image_size=32, cache_dir=tmp_path / "other", progress=Silent(),
    )  # fmt: skip
    row_of = {sample.sha256: row for row, sample in enumerate(of_files)}
    rows = [row_of[sample.sha256] for sample in of_shards]
    assert len(set(rows)) == 24
    np.testing.assert_array_equal(images.open()[:], expected.open()[rows])


def test_a_warm_start_reads_no_shard(tmp_path: Path, no_reading: Callable[[], None]) -> None:
    folder = write_shards(tmp_path / "s")
    first = manifest_of(listed(folder, tmp_path / "cache"), tmp_path / "cache")
    no_reading()
    second = manifest_of(listed(folder, tmp_path / "cache"), tmp_path / "cache")
    assert second == first
    assert prepared(second, folder, tmp_path / "cache")[1] == first.samples


def test_only_new_and_changed_shards_are_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "s")
    listed(folder, tmp_path / "cache")
    write_tar(folder / "a-01.tar", samples(100, 4))
    write_tar(folder / "a-09.tar", samples(200, 3))
    read = []
    index_in_workers = shards_module.index_in_workers
    monkeypatch.setattr(
        shards_module, "index_in_workers", lambda jobs, keys: read.extend(jobs) or index_in_workers(jobs, keys)
    )
    assert len(listed(folder, tmp_path / "cache").candidates) == 7 + 4 + 5 + 3
    assert [shard.name for _, shard in read] == ["a-01.tar", "a-09.tar"]


def test_a_changed_shard_is_read_even_with_its_old_size_and_time(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    status = (folder / "a-01.tar").stat()
    manifest = manifest_of(listed(folder, tmp_path / "cache"), tmp_path / "cache")
    write_tar(folder / "b", samples(100, 12)).replace(folder / "a-01.tar")
    os.utime(folder / "a-01.tar", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (folder / "a-01.tar").stat().st_size == status.st_size
    assert "cat/a-01.tar/0100.png" in [each.key for each in listed(folder, tmp_path / "cache").candidates]
    with pytest.raises(DataError, match="12 images of the run's manifest are missing, changed or unreadable"):
        prepared(manifest, folder, tmp_path / "new")


def test_an_index_that_disappears_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "s")
    shards = Shards(str(folder), KEYS, tmp_path / "cache")
    lost = shards._shards()["a-01.tar"].index.name
    monkeypatch.setattr(shards_module, "read_index", lambda path: None if path.name == lost else read_index(path))
    source = list_shards(shards, Silent())
    assert len(source.candidates) == 7 + 5
    assert source.problems == ["a-01.tar: its index is missing from the cache, or damaged; run the command again"]


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    expected = listed(folder, tmp_path / "cache").candidates
    for path in (tmp_path / "cache").glob("shard-*.arrays"):
        path.write_bytes(path.read_bytes()[:-30])
    assert listed(folder, tmp_path / "cache").candidates == expected


def test_an_index_made_without_support_for_a_format_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards(tmp_path / "s", (6,))
    indexes = set()
    for supported in (False, True):
        monkeypatch.setattr(shards_module, "can_read", lambda _, supported=supported: supported)
        indexes |= {shard.index for shard in Shards(str(folder), KEYS, tmp_path)._shards().values()}
    assert len(indexes) == 2


def test_a_run_finds_its_images_where_the_shards_are_now(tmp_path: Path) -> None:
    manifest = manifest_of(listed(write_shards(tmp_path / "s"), tmp_path / "cache"), tmp_path / "cache")
    shutil.move(tmp_path / "s", tmp_path / "moved")
    expected = prepared(manifest, tmp_path / "moved", tmp_path / "cache")[0].open()[:]
    np.testing.assert_array_equal(prepared(manifest, tmp_path / "moved", tmp_path / "new")[0].open()[:], expected)


def test_images_that_are_gone_or_have_changed_are_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    manifest = manifest_of(listed(folder, tmp_path / "cache"), tmp_path / "cache")
    write_tar(folder / "a-00.tar", [*samples(0, 6)[:-2], ("0005.png", picture(99)), ("0005.cls", b"dog")])
    write_tar(folder / "a-02.tar", samples(19, 5))
    with pytest.raises(DataError, match="2 images of the run's manifest are missing, changed or unreadable") as caught:
        prepared(manifest, folder, tmp_path / "new")
    problem = "it is no longer in its shard, or has changed"
    assert caught.value.details == [f"{folder}/a-00.tar/000{number}.png: {problem}" for number in (5, 6)]
    messages = Messages()
    prepared(manifest, folder, tmp_path / "cache", messages)
    assert messages.text == [
        "2 image files of 24 are missing or have changed: using the cached pixels from the start of the run."
    ]


def test_a_shard_that_changes_after_it_was_indexed_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s", (6, 6))
    source = listed(folder, tmp_path / "cache")
    (folder / "a-01.tar").write_bytes((folder / "a-01.tar").read_bytes()[:3000])
    with pytest.raises(DataError, match="images cannot be used") as caught:
        manifest_of(source, tmp_path / "cache")
    assert f"{folder}/a-01.tar/0011.png: it is no longer in its shard, or has changed" in caught.value.details[-1]


def test_pixels_in_the_cache_are_used_without_the_shards(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    manifest = manifest_of(listed(folder, tmp_path / "cache"), tmp_path / "cache")
    shutil.rmtree(folder)
    messages = Messages()
    images, found = prepared(manifest, folder, tmp_path / "cache", messages)
    assert (len(found), images.shape[0]) == (24, 24)
    assert messages.text == [
        "24 image files of 24 are missing or have changed: using the cached pixels from the start of the run."
    ]


def test_pixels_in_a_cache_that_cannot_be_written_are_used_without_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = write_shards(tmp_path / "s"), tmp_path / "cache"
    manifest = manifest_of(listed(folder, cache), cache)
    expected = prepared(manifest, folder, cache)[0].open()[:]
    for path in cache.glob("shard-*.arrays"):
        path.unlink()

    def fail(*_: object) -> Iterator[tuple[int, str]]:
        raise DiskError("read-only file system")
        yield

    monkeypatch.setattr(shards_module, "index_in_workers", fail)
    np.testing.assert_array_equal(prepared(manifest, folder, cache)[0].open()[:], expected)


def damage(cache: Path) -> None:
    [path] = cache.glob("images-*.u8")
    content = bytearray(path.read_bytes())
    content[5000] ^= 255
    path.write_bytes(content)


def test_damaged_pixels_are_decoded_again_from_the_shard(tmp_path: Path) -> None:
    folder, cache = write_shards(tmp_path / "s"), tmp_path / "cache"
    manifest = manifest_of(listed(folder, cache), cache)
    expected = prepared(manifest, folder, cache)[0].open()[:]
    damage(cache)
    np.testing.assert_array_equal(prepared(manifest, folder, cache)[0].open()[:], expected)
    shutil.rmtree(folder)
    images, _ = prepared(manifest, folder, cache)
    with pytest.raises(DataError, match="its pixels in the cache are damaged") as caught:
        images.open()[:]
    assert images.path.name in caught.value.hint


def test_pixels_that_are_not_kept_are_read_from_shards_that_are_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_reading: Callable[[], None]
) -> None:
    folder, cache = write_shards(tmp_path / "s"), tmp_path / "cache"
    kept = manifest_of(listed(folder, cache), cache)
    expected = prepared(kept, folder, cache)[0].open()[:]
    monkeypatch.setattr("dbbd_cli.data.cache.LIMIT_BYTES", 0)
    cache = tmp_path / "small"
    assert manifest_of(listed(folder, cache), cache) == kept
    no_reading()
    manifest = manifest_of(listed(folder, cache), cache)
    images, _ = prepared(manifest, folder, cache)
    assert not images.is_kept
    pixels = pickle.loads(pickle.dumps(images.open()))
    np.testing.assert_array_equal(pixels[[20, 3]], expected[[20, 3]])
    write_tar(folder / "a-00.tar", [*samples(0, 6), ("0006.png", picture(99)), ("0006.cls", b"cat")])
    with pytest.raises(DataError, match=r"0006.png: it is no longer in its shard, or has changed") as caught:
        pixels[6]
    assert "restore the file" in caught.value.hint


def test_an_image_in_a_shard_takes_little_memory(tmp_path: Path) -> None:
    count = 2000
    path = write_tar(tmp_path / "s" / "a.tar", samples(0, count))
    shards = Shards(str(path), KEYS, tmp_path / "cache")
    keys = [candidate.key for candidate in list_shards(shards, Silent()).candidates]
    refs = shards.locate(keys, Silent())
    assert len(pickle.dumps(refs)) / count < 120 + len(str(path))  # digest 64, position 20, ends 16, name 9
    assert refs.at([5, 9])[1] == refs[9]
    assert refs[9].part == Part(str(path), *_place_of(path, "0009.png"))


def _place_of(path: Path, name: str) -> tuple[int, int]:
    with tarfile.open(path) as tar:
        member = tar.getmember(name)
        return member.offset_data, member.size


def test_keys_of_a_stored_list_are_never_paths(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    (tmp_path / "secret.png").write_bytes(picture(1))
    shards = Shards(str(folder), KEYS, tmp_path / "cache")
    for key in (
        "cat/../secret.png",
        "cat/a-00.tar/../../secret.png",
        "cat",
        "",
        "cat/a-00.tar",
        f"cat/{tmp_path}/secret.png",
    ):
        [ref] = shards.locate([key], Silent())
        assert ref.part is not None
        assert (ref.part.file, ref.part.size) == (os.devnull, 0)


@pytest.mark.parametrize("limit", [80_000, 0], ids=["pixels are kept", "not kept"])
def test_remote_shards_are_kept_until_they_are_decoded_and_downloaded_again_if_necessary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("dbbd_cli.data.cache.LIMIT_BYTES", limit)  # there is no room for pixels and shards
    cache = tmp_path / "cache"
    local = manifest_of(listed(write_shards(tmp_path / "s"), tmp_path / "other"), tmp_path / "other")
    with FileServer(tmp_path / "s") as server:
        url = server.url("a-{00..02}.tar")
        manifest = manifest_of(listed(url, cache), cache)
        assert (manifest.roots, manifest.samples) == ((server.url(),) * 2, local.samples)
        assert server.downloads() == {f"/a-0{number}.tar": 1 for number in range(3)}
        prepared(manifest, url, cache)
        assert sum(server.downloads().values()) == 3
        for path in (*cache.glob("images-*"), *cache.glob("remote-*-a-01.tar")):
            path.unlink()
        images, samples_found = prepared(manifest, url, cache)
        assert (images.shape[0], samples_found, images.is_kept) == (24, local.samples, limit > 0)
        np.testing.assert_array_equal(
            images.open()[:], prepared(local, tmp_path / "s", tmp_path / "other")[0].open()[:]
        )
        assert server.downloads() == {"/a-00.tar": 1, "/a-01.tar": 2, "/a-02.tar": 1}


def test_copies_of_remote_shards_are_found_without_their_server(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    cache = tmp_path / "cache"
    write_shards(tmp_path / "s")
    with FileServer(tmp_path / "s") as server:
        url = server.url("a-{00..02}.tar?token=sesame", user="ali:baba@")
        manifest = manifest_of(listed(url, cache), cache)
        asked = sum(server.requests.values())
        expected = prepared(manifest, url, cache)[0].open()[:]
        assert sum(server.requests.values()) == asked
    keys = [sample.key for sample in manifest.samples]
    refs = Shards(url, KEYS, cache).locate_here(keys, Silent())
    assert list(refs.sha256) == [sample.sha256 for sample in manifest.samples]
    unknown = Shards(url.replace("a-", "b-"), KEYS, cache).locate_here(keys, Silent())
    assert {ref.part.file for ref in unknown if ref.part} == {os.devnull}
    damage(cache)
    np.testing.assert_array_equal(prepared(manifest, url, cache)[0].open()[:], expected)
    [seen] = cache.glob("remote-*.json")
    assert not any(secret in seen.read_text() for secret in ("sesame", "baba"))
    for copy in cache.glob("remote-*.tar"):
        copy.unlink()
    images, _ = prepared(manifest, url, cache)
    with pytest.raises(DataError, match="no such file or directory") as caught:
        images.open()[:]
    assert images.path.name in caught.value.hint
    for damaged in ("[1]", '[["a", "b"]]', "{"):
        seen.write_text(damaged)
        assert {ref.part.file for ref in Shards(url, KEYS, cache).locate_here(keys, Silent()) if ref.part} == {
            os.devnull
        }


def test_processes_find_the_same_samples_whatever_their_caches_contain(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    manifests = [manifest_of(listed(folder, tmp_path / cache), tmp_path / cache) for cache in ("one", "two")]
    assert manifests[0].digest() == manifests[1].digest()
