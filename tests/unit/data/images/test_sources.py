"""Data sets are listed completely and in a fixed order, and everything unusable in them is reported."""

import os
import pickle
import sys
from pathlib import Path

import pytest
from PIL import Image

from dbbd_cli.core.errors import DataError
from dbbd_cli.data import candidates
from dbbd_cli.data.candidates import Candidate, Source
from dbbd_cli.data.images import sources as image_sources
from dbbd_cli.data.images.decode import decode_image
from dbbd_cli.data.images.sources import file_of, list_classes, list_folder
from dbbd_cli.data.urls.sources import list_synthetic, list_urls
from dbbd_cli.data.urls.synthetic import synthetic_urls

REAL_URLS = Path(__file__).parents[4] / ".." / "shared" / "data" / "qr_urls.csv"
POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="such file names or links are not for Windows")


def save(path, image_format=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path, image_format)
    return path


def keys(source):
    return [candidate.key for candidate in source.candidates]


@pytest.fixture
def pets(tmp_path):
    """Two classes with one image each."""
    for name in ("dog", "cat"):
        save(tmp_path / "pets" / name / "1.png")
    return tmp_path / "pets"


class TestFolder:
    def test_images_are_found_at_any_depth_in_a_fixed_order(self, pets):
        save(pets / "cat" / "b" / "c" / "2.JPG")
        save(pets / "cat" / "a.webp")
        save(pets / "cat" / "B.tiff")
        assert list_folder(pets) == Source(
            kind="folder",
            classes=("cat", "dog"),
            candidates=[
                Candidate("cat/1.png", 0),
                Candidate("cat/B.tiff", 0),
                Candidate("cat/a.webp", 0),
                Candidate("cat/b/c/2.JPG", 0),
                Candidate("dog/1.png", 1),
            ],
            roots=(pets / "cat", pets / "dog"),
            problems=[],
            ignored=0,
        )

    def test_every_candidate_leads_back_to_its_file(self, pets):
        save(pets / "cat" / "déjà vu" / "猫 😀.png")
        save(pets / "dog" / "..x" / "[red]a[/red].png")
        save(pets / "dog" / "x" / "a'b #1%20.png")
        source = list_folder(pets)
        assert len(source.candidates) == 4  # "..x" is hidden
        for candidate in source.candidates:
            file = file_of(source.roots, candidate.key, candidate.label)
            assert decode_image(file.read_bytes(), 32).shape == (32, 32, 3)

    def test_hidden_entries_are_skipped(self, pets):
        save(pets / ".git" / "1.png")
        save(pets / "cat" / ".thumbnails" / "1.png")
        save(pets / "cat" / "._1.png", "PNG")
        (pets / ".DS_Store").write_text("x")
        source = list_folder(pets)
        assert keys(source) == ["cat/1.png", "dog/1.png"]
        assert (source.problems, source.ignored) == ([], 0)

    def test_other_files_are_counted(self, pets):
        save(pets / "overview.png")
        (pets / "readme.txt").write_text("x")
        (pets / "cat" / "notes.txt").write_text("text")
        (pets / "cat" / "png").write_text("")
        (pets / "dog" / "deep").mkdir()
        (pets / "dog" / "deep" / "labels.csv").write_text("a,b")
        source = list_folder(pets)
        assert (keys(source), source.problems, source.ignored) == (["cat/1.png", "dog/1.png"], [], 5)

    @POSIX_ONLY
    def test_links(self, pets):
        outside = save(pets.parent / "outside.png")
        (pets / "cat" / "in.png").symlink_to("1.png")
        (pets / "cat" / "out.png").symlink_to(outside)
        (pets / "cat" / "other-class.png").symlink_to("../dog/1.png")
        (pets / "cat" / "nowhere.png").symlink_to("missing.png")
        (pets / "cat" / "loop.png").symlink_to("loop.png")
        (pets / "cat" / "out.txt").symlink_to(outside)
        (pets / "cat" / "all").symlink_to(pets.parent)
        (pets / "birds").symlink_to(pets / "cat")
        source = list_folder(pets)
        assert keys(source) == ["cat/1.png", "cat/in.png", "dog/1.png"]
        reasons = dict(problem.split(": ", 1) for problem in source.problems)
        assert "link" in reasons.pop("cat/loop.png")
        assert reasons == {
            "birds": "is a link to a folder, which is not followed",
            "cat/all": "is a link to a folder, which is not followed",
            "cat/nowhere.png": "is a link to a missing file",
            "cat/other-class.png": "is a link that leads out of the folder",
            "cat/out.png": "is a link that leads out of the folder",
        }
        assert source.ignored == 1

    @POSIX_ONLY
    def test_links_within_a_linked_root_are_followed(self, pets):
        (pets / "cat" / "in.png").symlink_to("1.png")
        (pets.parent / "alias").symlink_to(pets)
        source = list_folder(pets.parent / "alias")
        assert keys(source) == ["cat/1.png", "cat/in.png", "dog/1.png"]
        assert source.problems == []

    @POSIX_ONLY
    def test_a_pipe_is_not_opened(self, pets):
        os.mkfifo(pets / "cat" / "pipe.png")
        os.mkfifo(pets / "cat" / "pipe")
        source = list_folder(pets)
        assert (keys(source), source.ignored) == (["cat/1.png", "dog/1.png"], 2)

    @pytest.mark.skipif(sys.platform != "linux", reason="only there names may be any bytes")
    def test_unprintable_names_are_problems(self, pets):
        (pets / "cat" / "esc\033[31m.png").touch()
        (pets / "cat" / os.fsdecode(b"latin\xe9.png")).touch()
        source = list_folder(pets)
        reason = "its name has unprintable characters; rename it"
        assert source.problems == [f"cat/esc\\x1b[31m.png: {reason}", f"cat/latin\\udce9.png: {reason}"]
        (pets / os.fsdecode(b"\xff")).mkdir()
        with pytest.raises(DataError, match=r"class name \\udcff has a slash or unprintable characters"):
            list_folder(pets)

    def test_a_subfolder_that_cannot_be_opened_is_a_problem(self, pets, monkeypatch):
        closed = pets / "cat" / "closed"
        save(closed / "1.png")
        scandir = os.scandir

        def guarded(path):
            if Path(path) == closed:
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", guarded)
        assert list_folder(pets).problems == ["cat/closed: cannot be opened: permission denied"]
        closed = pets
        with pytest.raises(DataError, match="cannot be opened: permission denied"):
            list_folder(pets)

    def test_a_missing_path_suggests_a_similar_one(self, pets):
        with pytest.raises(DataError, match="does not exist") as caught:
            list_folder(pets.parent / "pest")
        assert caught.value.hint == f"did you mean {pets}?"
        with pytest.raises(DataError) as caught:
            list_folder(pets / "nothing" / "like" / "it")
        assert "data.path" in caught.value.hint

    def test_an_impossible_path_is_an_error(self, pets):
        with pytest.raises(DataError, match="is a file, not a folder"):
            list_folder(pets / "cat" / "1.png")
        with pytest.raises(DataError, match="cannot be opened"):
            list_folder(Path("a\0b"))

    def test_a_single_class_is_an_error(self, pets):
        with pytest.raises(DataError, match="no subfolders: a classifier needs at least two classes"):
            list_folder(pets / "cat")
        (pets / "cat" / "a.tar").touch()
        with pytest.raises(DataError, match="no subfolders") as caught:
            list_folder(pets / "cat")
        assert "data.source=shards" in caught.value.hint
        (pets / "dog").rename(pets / ".dog")
        with pytest.raises(DataError, match="only one class folder, cat"):
            list_folder(pets)

    @POSIX_ONLY
    def test_a_class_without_images_is_named(self, pets):
        (pets / "empty").mkdir()
        for number in range(12):
            (pets / "empty" / f"{number:02}.png").symlink_to("nowhere")
        with pytest.raises(DataError, match="class empty has no images in its folder") as caught:
            list_folder(pets)
        assert len(caught.value.details) == 11
        assert caught.value.details[0] == "empty/00.png: is a link to a missing file"
        assert caught.value.details[-1] == "and 2 more"

    @pytest.mark.parametrize(
        "leftover",
        [
            "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
            "__MACOSX/._1.png",
            "__MACOSX/1.png",
            ".AppleDouble/1.png",
            "$RECYCLE.BIN/S-1-5/1.png",
            "lost+found/1.png",
            ".ipynb_checkpoints/1-checkpoint.png",
            "System Volume Information/1.png",
        ],
    )
    def test_system_files_are_not_samples_classes_or_problems(self, pets, leftover):
        expected = list_folder(pets)
        for folder in (pets, pets / "cat", pets / "dog" / "deep" / "deeper"):
            save(folder / leftover)
            (folder / leftover).with_name("wrong.dat").write_bytes((pets / "cat" / "1.png").read_bytes())
        for folder in (pets, pets / "cat"):
            for name in ("Thumbs.db", "desktop.ini", "._1.png", ".DS_Store"):
                (folder / name).write_bytes((pets / "cat" / "1.png").read_bytes())
        assert list_folder(pets) == expected
        assert list_classes({"a": pets / "cat", "b": pets / "dog"}).problems == []

    def test_system_files_do_not_hide_folders_of_splits(self, tmp_path):
        for name in ("train", "val"):
            save(tmp_path / name / "cat" / "1.png")
        save(tmp_path / "@eaDir" / "1.png")
        with pytest.raises(DataError, match="dbbd makes the splits itself"):
            list_folder(tmp_path)

    def test_system_files_in_a_class_do_not_make_it_a_split(self, tmp_path):
        for name in ("train", "val"):
            save(tmp_path / name / "1.png")
            save(tmp_path / name / "@eaDir" / "1.png" / "thumb.jpg")
        assert list_folder(tmp_path).classes == ("train", "val")

    def test_images_in_unsupported_formats_are_counted_by_suffix(self, pets):
        for name in ("a.CR2", "b.cr2", "c.psd", "deep/d.jxl", "e.svg"):
            (pets / "cat" / name).parent.mkdir(exist_ok=True)
            (pets / "cat" / name).write_bytes(b"II*\0 a raw file is a TIFF inside")
        (pets / "dog" / "notes.txt").write_text("text")
        source = list_folder(pets)
        assert source.unread == {".cr2": 2, ".psd": 1, ".jxl": 1, ".svg": 1}
        assert (source.ignored, source.problems) == (1, [])

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
    def test_an_image_without_a_suffix_is_a_problem(self, pets, kind):
        save(pets / "cat" / "2", kind)
        save(pets / "cat" / "3.jpg_large", kind)
        source = list_folder(pets)
        assert source.ignored == 0
        assert source.problems == [
            f"cat/{name}: is an image, but its name does not end like one; rename it" for name in ("2", "3.jpg_large")
        ]

    def test_a_class_of_unsupported_images_is_an_error_that_lists_them(self, pets, monkeypatch):
        (pets / "raw").mkdir()
        for name in ("1.nef", "2.NEF"):
            (pets / "raw" / name).write_bytes(b"MM\0*")
        with pytest.raises(DataError, match=r"class raw has only images in unsupported formats .*: 2 \.nef$") as caught:
            list_folder(pets)
        assert caught.value.hint == "convert them, for example to JPEG or PNG"
        monkeypatch.setattr("dbbd_cli.data.images.formats.can_read", lambda name: name not in ("", "HEIF"))
        (pets / "raw" / "3.heic").write_bytes(b"\0\0\0\x18ftypheic")
        with pytest.raises(DataError, match=r"1 \.heic, 2 \.nef$") as caught:
            list_folder(pets)
        assert caught.value.hint.startswith('for .heic: pip install "dbbd-cli[heif]"; or convert them')

    def test_too_many_classes_are_rejected_before_their_folders_are_read(self, pets, monkeypatch):
        monkeypatch.setattr(candidates, "MAX_CLASSES", 1)
        monkeypatch.setattr(image_sources, "_list_class", None)
        with pytest.raises(DataError, match=r"has 2 classes \(limit 1\): cat, dog"):
            list_folder(pets)
        with pytest.raises(DataError, match=r"data\.classes has 2 classes \(limit 1\)"):
            list_classes({"a": pets / "cat", "b": pets / "dog"})
        (pets / "urls.csv").write_text("url,label\na.example,good\nb.example,bad\n")
        with pytest.raises(DataError, match=r"urls\.csv has 2 classes \(limit 1\): bad, good") as caught:
            list_urls(pets / "urls.csv", "url", "label")
        assert "data.label_column" in caught.value.hint

    @pytest.mark.parametrize("names", [("train", "val"), ("Train", "valid", "test"), ("training", "validation")])
    def test_folders_of_splits_are_explained(self, tmp_path, names):
        for name in names:
            save(tmp_path / name / "cat" / "1.png")
            save(tmp_path / name / "dog" / "1.png")
        with pytest.raises(DataError, match="dbbd makes the splits itself") as caught:
            list_folder(tmp_path)
        assert str(tmp_path / sorted(names)[0]) in caught.value.hint
        assert list_folder(tmp_path / names[0]).classes == ("cat", "dog")

    @pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
    def test_a_broken_link_is_not_a_split(self, tmp_path):
        for name in ("train", "val"):
            save(tmp_path / "data" / name / "1.png")
        (tmp_path / "data" / "train" / "x.png").symlink_to("y" * 300)  # longer than any name: looking at it fails
        assert list_folder(tmp_path / "data").classes == ("train", "val")

    def test_classes_may_have_the_names_of_splits(self, tmp_path):
        save(tmp_path / "train" / "1.png")
        save(tmp_path / "test" / "1.png")
        assert list_folder(tmp_path).classes == ("test", "train")
        save(tmp_path / "bus" / "electric" / "1.png")
        save(tmp_path / "train" / "steam" / "1.png")
        assert list_folder(tmp_path).classes == ("bus", "test", "train")


class TestClasses:
    def test_classes_keep_their_order(self, pets):
        source = list_classes({"woof": pets / "dog", "meow": pets / "cat"})
        assert (source.kind, source.classes) == ("classes", ("woof", "meow"))
        assert source.candidates == [Candidate("woof/1.png", 0), Candidate("meow/1.png", 1)]
        assert file_of(source.roots, "meow/1.png", 1) == pets / "cat" / "1.png"

    def test_one_class_is_an_error(self, pets):
        with pytest.raises(DataError, match="at least two"):
            list_classes({"cat": pets / "cat"})

    def test_folders_must_not_overlap(self, pets):
        with pytest.raises(DataError, match=r"class b .* is, or lies in, that of class a"):
            list_classes({"a": pets, "b": pets / "cat"})
        with pytest.raises(DataError, match="lies in"):
            list_classes({"a": pets / "cat", "b": pets / "dog" / ".." / "cat"})

    def test_errors_name_the_setting(self, pets):
        with pytest.raises(DataError, match="does not exist") as caught:
            list_classes({"a": pets / "cat", "b": pets / "zzz"})
        assert "data.classes" in caught.value.hint
        with pytest.raises(DataError, match="class name a/b has a slash"):
            list_classes({"a/b": pets / "cat", "c": pets / "dog"})


class TestFileOf:
    ROOTS = (Path("data/cat"), Path("data/dog"))

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "cat",
            "cat/",
            "/etc/passwd/..",
            "cat/../dog/1.png",
            "cat/..",
            "cat//etc/passwd",
            "cat/./1.png",
            "cat/a/../../x.png",
            "cat/1.png\0.txt",
        ],
    )
    def test_keys_outside_the_class_folder_are_rejected(self, key):
        with pytest.raises(DataError, match="does not name a file"):
            file_of(self.ROOTS, key, 0)

    @pytest.mark.parametrize("key", ["cat/C:/x.png", "cat/C:x.png", "cat/..\\x.png", "cat/\\\\host\\x.png"])
    def test_drives_and_backslashes_are_rejected_on_windows(self, key, monkeypatch):
        monkeypatch.setattr(image_sources.os, "name", "nt")
        refused = False
        try:
            file_of(self.ROOTS, key, 0)
        except DataError:
            refused = True
        monkeypatch.undo()
        assert refused

    @pytest.mark.parametrize("label", [-1, 2])
    def test_invalid_labels_are_rejected(self, label):
        with pytest.raises(DataError):
            file_of(self.ROOTS, "cat/1.png", label)

    def test_the_label_chooses_the_folder(self):
        assert file_of(self.ROOTS, "x/a/1.png", 1) == Path("data/dog/a/1.png")


def test_synthetic():
    source = list_synthetic(20, 3)
    assert source.classes == ("benign", "malicious")
    assert keys(source)[:20] == sorted(synthetic_urls(20, 3)["benign"])
    assert keys(source)[20:] == sorted(synthetic_urls(20, 3)["malicious"])
    assert [candidate.label for candidate in source.candidates] == [0] * 20 + [1] * 20
    assert pickle.loads(pickle.dumps(source)) == source
