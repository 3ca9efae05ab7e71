import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.images import sources as image_sources
from dbbd_cli.data.images.decode import decode_image
from dbbd_cli.data.images.sources import (
    Candidate,
    Source,
    file_of,
    list_classes,
    list_folder,
    list_synthetic,
    list_urls,
)
from dbbd_cli.data.images.url_grammar import synthetic_urls

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
    def test_finds_images_at_any_depth_in_a_fixed_order(self, pets):
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
            assert decode_image(file.read_bytes(), file.suffix, 32).shape == (32, 32, 3)

    def test_hidden_things_are_passed_over(self, pets):
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

    def test_an_image_with_another_name_is_a_problem(self, pets):
        save(pets / "cat" / "two.txt", "PNG")
        save(pets / "dog" / "x" / "three", "JPEG")
        source = list_folder(pets)
        assert source.problems == [
            "cat/two.txt: wrongly named: is a PNG but named .txt",
            "dog/x/three: wrongly named: is a JPEG but named without a suffix",
        ]
        assert source.ignored == 0

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
    def test_a_root_behind_a_link_is_no_link_out(self, pets):
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
    def test_names_that_cannot_be_shown_are_problems(self, pets):
        (pets / "cat" / "esc\033[31m.png").touch()
        (pets / "cat" / os.fsdecode(b"latin\xe9.png")).touch()
        source = list_folder(pets)
        reason = "its name has unprintable characters; rename it"
        assert source.problems == [f"cat/esc\\x1b[31m.png: {reason}", f"cat/latin\\udce9.png: {reason}"]
        (pets / os.fsdecode(b"\xff")).mkdir()
        with pytest.raises(DataError, match=r"class name \\udcff has a slash, or characters"):
            list_folder(pets)

    def test_a_sub_folder_that_cannot_be_opened_is_a_problem(self, pets, monkeypatch):
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

    def test_missing_path_suggests_what_is_near(self, pets):
        with pytest.raises(DataError, match="does not exist") as caught:
            list_folder(pets.parent / "pest")
        assert caught.value.hint == f"did you mean {pets}?"
        with pytest.raises(DataError) as caught:
            list_folder(pets / "nothing" / "like" / "it")
        assert "data.path" in caught.value.hint

    def test_path_that_cannot_be_one(self, pets):
        with pytest.raises(DataError, match="is a file, not a folder"):
            list_folder(pets / "cat" / "1.png")
        with pytest.raises(DataError, match="cannot be opened"):
            list_folder(Path("a\0b"))

    def test_too_few_classes(self, pets):
        with pytest.raises(DataError, match="no subfolders: a classifier needs at least two classes"):
            list_folder(pets / "cat")
        (pets / "dog").rename(pets / ".dog")
        with pytest.raises(DataError, match="only one class folder, cat"):
            list_folder(pets)

    def test_class_without_images_is_named(self, pets):
        (pets / "empty").mkdir()
        for number in range(12):
            save(pets / "empty" / f"{number:02}.dat", "PNG")
        with pytest.raises(DataError, match="class empty has no images in its folder") as caught:
            list_folder(pets)
        assert len(caught.value.details) == 11
        assert caught.value.details[0] == "empty/00.dat: wrongly named: is a PNG but named .dat"
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

    def test_images_in_formats_that_are_not_read_are_counted_by_suffix(self, pets):
        for name in ("a.CR2", "b.cr2", "c.psd", "deep/d.jxl", "e.svg"):
            (pets / "cat" / name).parent.mkdir(exist_ok=True)
            (pets / "cat" / name).write_bytes(b"II*\0 a raw file is a TIFF inside")
        (pets / "dog" / "no suffix").write_bytes(b"8BPS\0\1")
        (pets / "dog" / "P1 is no image").write_text("P1 1 1 1")
        (pets / "dog" / "notes.txt").write_text("text")
        source = list_folder(pets)
        assert source.unread == {".cr2": 2, ".psd": 1, ".jxl": 1, ".svg": 1, "without a suffix": 1}
        assert (source.ignored, source.problems) == (2, [])

    def test_an_image_named_as_an_unread_format_is_a_problem(self, pets):
        save(pets / "cat" / "2.jxl", "PNG")
        assert list_folder(pets).problems == ["cat/2.jxl: wrongly named: is a PNG but named .jxl"]

    def test_a_class_of_unread_images_says_what_they_are(self, pets, monkeypatch):
        (pets / "raw").mkdir()
        for name in ("1.nef", "2.NEF"):
            (pets / "raw" / name).write_bytes(b"MM\0*")
        with pytest.raises(DataError, match=r"class raw has only images in unsupported formats .*: 2 \.nef$") as caught:
            list_folder(pets)
        assert caught.value.hint == "convert them, to JPEG or PNG for example"
        for module in ("formats", "listing"):
            monkeypatch.setattr(f"dbbd_cli.data.images.{module}.can_read", lambda name: name not in ("", "HEIC"))
        (pets / "raw" / "3.heic").write_bytes(b"\0\0\0\x18ftypheic")
        with pytest.raises(DataError, match=r"1 \.heic, 2 \.nef$") as caught:
            list_folder(pets)
        assert caught.value.hint.startswith('for .heic: pip install "dbbd-cli[heif]"; or convert them')

    def test_far_too_many_classes_are_refused_before_their_folders_are_read(self, pets, monkeypatch):
        monkeypatch.setattr(image_sources, "MAX_CLASSES", 1)
        monkeypatch.setattr(image_sources, "list_class", None)
        with pytest.raises(DataError, match=r"has 2 classes \(limit 1\): cat, dog"):
            list_folder(pets)
        with pytest.raises(DataError, match=r"data\.classes has 2 classes \(limit 1\)"):
            list_classes({"a": pets / "cat", "b": pets / "dog"})
        with pytest.raises(DataError, match=r"urls\.csv has 2 classes \(limit 1\): bad, good") as caught:
            listed(pets, "url,label\na.example,good\nb.example,bad\n")
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
    def test_a_link_that_leads_nowhere_is_no_split(self, tmp_path):
        for name in ("train", "val"):
            save(tmp_path / "data" / name / "1.png")
        (tmp_path / "data" / "train" / "x.png").symlink_to("y" * 300)  # longer than any name: looking at it fails
        assert list_folder(tmp_path / "data").classes == ("train", "val")

    def test_classes_may_be_called_like_splits(self, tmp_path):
        save(tmp_path / "train" / "1.png")
        save(tmp_path / "test" / "1.png")
        assert list_folder(tmp_path).classes == ("test", "train")
        save(tmp_path / "bus" / "electric" / "1.png")
        save(tmp_path / "train" / "steam" / "1.png")
        assert list_folder(tmp_path).classes == ("bus", "test", "train")


class TestClasses:
    def test_keeps_the_written_order(self, pets):
        source = list_classes({"woof": pets / "dog", "meow": pets / "cat"})
        assert (source.kind, source.classes) == ("classes", ("woof", "meow"))
        assert source.candidates == [Candidate("woof/1.png", 0), Candidate("meow/1.png", 1)]
        assert file_of(source.roots, "meow/1.png", 1) == pets / "cat" / "1.png"

    def test_needs_two(self, pets):
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
    def test_keys_that_escape_are_refused(self, key):
        with pytest.raises(DataError, match="does not name a file"):
            file_of(self.ROOTS, key, 0)

    @pytest.mark.parametrize("key", ["cat/C:/x.png", "cat/C:x.png", "cat/..\\x.png", "cat/\\\\host\\x.png"])
    def test_on_windows_drives_and_backslashes_are_refused(self, key, monkeypatch):
        monkeypatch.setattr(image_sources.os, "name", "nt")
        refused = False
        try:
            file_of(self.ROOTS, key, 0)
        except DataError:
            refused = True
        monkeypatch.undo()
        assert refused

    @pytest.mark.parametrize("label", [-1, 2])
    def test_labels_that_are_none_are_refused(self, label):
        with pytest.raises(DataError):
            file_of(self.ROOTS, "cat/1.png", label)

    def test_the_label_chooses_the_folder(self):
        assert file_of(self.ROOTS, "x/a/1.png", 1) == Path("data/dog/a/1.png")


def listed(tmp_path, content, url="url", label="label"):
    path = tmp_path / "urls.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list_urls(path, url, label)


class TestUrls:
    def test_reads_and_sorts(self, tmp_path):
        source = listed(tmp_path, "url,label\nz.example,good\nb.example,bad\na.example, good \nb.example,bad\n")
        assert source == Source(
            kind="urls",
            classes=("bad", "good"),
            candidates=[
                Candidate("b.example", 0),
                Candidate("b.example", 0),
                Candidate("a.example", 1),
                Candidate("z.example", 1),
            ],
            roots=(),
            problems=[],
            ignored=0,
        )

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
    def test_separators_line_ends_and_mark_of_excel(self, tmp_path, separator, newline):
        lines = ["url|note|label", "a.example|x|bad", "|", "", "b.example|y|good"]
        text = newline.join(lines).replace("|", separator)
        source = listed(tmp_path, b"\xef\xbb\xbf" + text.encode())
        assert keys(source) == ["a.example", "b.example"]
        assert source.problems == ["urls.csv line 3: too few fields: 2 instead of 3"]

    def test_quoted_fields(self, tmp_path):
        source = listed(tmp_path, 'url,label,note\n"a.example/x,""y""",bad,"two\nlines"\nb.example,good,\n,bad,\n')
        assert keys(source) == ['a.example/x,"y"', "b.example"]
        assert source.problems == ["urls.csv line 5: the URL is empty"]

    def test_bad_rows_are_problems_with_their_line(self, tmp_path):
        long = "https://a.example/" + "x" * 2314
        rows = [
            "url,label",
            "a.example,good",
            ",good",
            "b.example,  ",
            "c.example",
            "d.example/a,b,bad",
            "e\0.example,bad",
            "f.example,b\0d",
            f"{long},bad",
            f"{long[:-1]},bad",
            '"g\n.example",bad',
            "h\033[31m.example,bad",
            '"i"x.example,bad',
            "j.example,bad,,",
            "é.example,bad",
        ]
        source = listed(tmp_path, "\n".join(rows))
        control = "has a NUL, a line break or another control character"
        assert source.problems == [
            "urls.csv line 3: the URL is empty",
            "urls.csv line 4: the class is empty",
            "urls.csv line 5: too few fields: 1 instead of 2",
            "urls.csv line 6: too many fields: 3 instead of 2; a URL that contains the separator must be quoted",
            f"urls.csv line 7: the URL {control}",
            f"urls.csv line 8: the class {control}",
            "urls.csv line 9: the URL is too long for a QR code: 2,332 bytes (limit 2,331)",
            f"urls.csv lines 11 to 12: the URL {control}",
            f"urls.csv line 13: the URL {control}",
            "urls.csv line 14: is not valid CSV: ',' expected after '\"'",
        ]
        assert keys(source) == [long[:-1], "j.example", "é.example", "a.example"]

    def test_the_limit_counts_bytes(self, tmp_path):
        source = listed(tmp_path, "url,label\n" + "é" * 1166 + ",bad\na.example,bad\nb.example,good\n")
        assert source.problems == ["urls.csv line 2: the URL is too long for a QR code: 2,332 bytes (limit 2,331)"]

    def test_an_open_quotation_mark_is_told_with_the_lines_that_it_costs(self, tmp_path):
        rows = ["url,label", "a.example,good", "b.example,bad", '"c.example,good', "d.example,good"]
        source = listed(tmp_path, "\n".join(rows))
        assert source.problems == ["urls.csv lines 4 to 5: is not valid CSV: unexpected end of data"]

    def test_a_huge_field_costs_only_its_row(self, tmp_path):
        source = listed(tmp_path, "url,label\na.example,good\n" + "x" * 200_000 + ",bad\nb.example,bad\n")
        assert len(source.problems) == 1
        assert source.problems[0].startswith("urls.csv line 3: is not valid CSV: field larger")
        assert keys(source) == ["b.example", "a.example"]

    def test_missing_column(self, tmp_path):
        with pytest.raises(DataError, match="has no column url; its columns are: URL, label, x") as caught:
            listed(tmp_path, "URL,label,x\na.example,good,1\n")
        assert caught.value.hint == "did you mean URL? Choose the column with --set data.url_column=NAME"
        with pytest.raises(DataError, match="has no column label") as caught:
            listed(tmp_path, "url,Labels\na.example,good\n")
        assert "Labels" in caught.value.hint
        assert "--set data.label_column=" in caught.value.hint
        with pytest.raises(DataError) as caught:
            listed(tmp_path, "url;\033[31mx\na.example;good\n")
        assert "\033" not in caught.value.message
        with pytest.raises(DataError) as caught:
            listed(tmp_path, "url," + "x" * 100_000 + "\na.example,good\n")
        assert len(caught.value.message) < 1000

    def test_a_path_that_is_too_long_is_said_to_be(self, tmp_path):
        with pytest.raises(DataError, match=r"cannot be opened|does not exist"):
            list_urls(tmp_path / ("x" * 300), "url", "label")

    def test_named_columns(self, tmp_path):
        source = listed(tmp_path, "class, address\nbad,a.example\ngood,b.example\n", "address", "class")
        assert keys(source) == ["a.example", "b.example"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "line 1 is empty"),
            ('"url', "line 1 is not valid CSV"),
            ("url,label\n", "no usable row"),
            ("url,label\n\n\n", "no usable row"),
            ("url,label\na.example,bad\nb.example,bad\n", "only the class bad"),
            ("url,label\n,bad\n,good\n", "no usable row"),
            (b"url,label\na.example,bad\nb\xe9.example,good\n", "line 3 is not UTF-8"),
            ("url,label\na.example,bad\n".encode("utf-16"), "line 1 is not UTF-8"),
            ("url,label\na.example,bad\n".encode("utf-16-le"), "is not a text file"),
        ],
    )
    def test_unusable_files(self, tmp_path, content, message):
        with pytest.raises(DataError, match=message):
            listed(tmp_path, content)

    def test_problems_are_shown_where_nothing_is_left(self, tmp_path):
        with pytest.raises(DataError) as caught:
            listed(tmp_path, "url,label\n" + "a.example\n" * 30)
        assert len(caught.value.details) == 11

    def test_a_table_of_bad_rows_is_given_up(self, tmp_path):
        with pytest.raises(DataError, match="has more than 100,000 unusable rows") as caught:
            listed(tmp_path, "url,label\n" + "x\n" * 200_000)
        assert len(caught.value.details) == 11

    def test_path_that_is_no_file(self, tmp_path):
        with pytest.raises(DataError, match="is a folder, not a CSV file"):
            list_urls(tmp_path, "url", "label")
        (tmp_path / "urls.csv").touch()
        with pytest.raises(DataError, match="does not exist") as caught:
            list_urls(tmp_path / "url.csv", "url", "label")
        assert "urls.csv" in caught.value.hint
        with pytest.raises(DataError, match="cannot be opened"):
            list_urls(Path("a\0b"), "url", "label")

    @pytest.mark.skipif(not REAL_URLS.exists(), reason="the real URLs are not here")
    def test_real_urls(self):
        source = list_urls(REAL_URLS, "url", "label")
        labels = [candidate.label for candidate in source.candidates]
        assert (source.classes, len(labels), labels.count(0)) == (("benign", "malicious"), 10_000, 5000)
        assert source.problems == []
        assert len(set(keys(source))) > 9_900


def test_synthetic():
    source = list_synthetic(20, 3)
    assert source.classes == ("benign", "malicious")
    assert keys(source)[:20] == sorted(synthetic_urls(20, 3)["benign"])
    assert keys(source)[20:] == sorted(synthetic_urls(20, 3)["malicious"])
    assert [candidate.label for candidate in source.candidates] == [0] * 20 + [1] * 20
    assert pickle.loads(pickle.dumps(source)) == source


def test_worker_processes_start_light():
    modules = ("qr_code", "url_grammar", "decode", "sources")
    imports = "import sys; " + "".join(f"import dbbd_cli.data.images.{module}; " for module in modules)
    heavy = "print({'torch', 'torchvision', 'pydantic', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", imports + heavy], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
