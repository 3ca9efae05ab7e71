"""A folder of scenes is listed and divided into splits; links, other files and odd names are handled safely."""

import os
from pathlib import Path

import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.scenes.sources import choose_scenes, list_scenes, scene_path

SHARES = (0.7, 0.15, 0.15)
LINKS = pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def scenes(folder, *names):
    for name in names:
        touch(folder / name / "coord.npy" if "." not in name else folder / name)


@pytest.fixture
def divided(tmp_path):
    scenes(tmp_path / "train", "b.pkl", "a.ply", "scene0", "c.NPZ", "notes.txt", ".hidden.pkl")
    scenes(tmp_path / "val", "v.ply", "u.ply", "w.ply")
    return tmp_path


def keys(source):
    return [candidate.key for candidate in source.candidates]


def test_split_folders_are_listed_by_split_and_name(divided):
    source = list_scenes(divided)
    assert keys(source) == [
        "train/a.ply",
        "train/b.pkl",
        "train/c.NPZ",
        "train/scene0",
        "val/u.ply",
        "val/v.ply",
        "val/w.ply",
    ]
    assert [candidate.split for candidate in source.candidates] == ["train"] * 4 + ["val"] * 3
    assert source.has_splits
    assert source.ignored == 1
    assert source.problems == []


def test_a_divided_folder_keeps_its_splits_sorted_by_name(divided):
    chosen = choose_scenes(list_scenes(divided), SHARES, 0)
    assert chosen == sorted(chosen, key=lambda pair: (("train", "val", "test").index(pair[1]), pair[0]))
    assert chosen[:2] == [("train/a.ply", "train"), ("train/b.pkl", "train")]
    assert all(key.startswith(f"{split}/") for key, split in chosen)


def test_a_flat_folder_is_divided_by_seed_and_shares(tmp_path):
    scenes(tmp_path, *(f"{index}.ply" for index in range(20)))
    source = list_scenes(tmp_path)
    assert not source.has_splits
    chosen = dict(choose_scenes(source, SHARES, 42))
    assert [list(chosen.values()).count(split) for split in ("train", "val", "test")] == [14, 3, 3]
    assert dict(choose_scenes(source, SHARES, 42)) == chosen
    assert dict(choose_scenes(source, SHARES, 43)) != chosen


def test_one_scene_in_two_formats_stays_in_one_split(tmp_path):
    names = [f"{index}.{kind}" for index in range(20) for kind in ("PLY", "npz")]
    scenes(tmp_path, *names)
    chosen = dict(choose_scenes(list_scenes(tmp_path), SHARES, 1))
    assert all(chosen[f"{index}.PLY"] == chosen[f"{index}.npz"] for index in range(20))


def test_the_scans_of_one_scannet_room_stay_in_one_split(tmp_path):
    scenes(tmp_path, *(f"scene{room:04d}_{scan:02d}_vh_clean_2.ply" for room in range(10) for scan in range(3)))
    chosen = choose_scenes(list_scenes(tmp_path), SHARES, 42)
    assert len({(key[:9], split) for key, split in chosen}) == 10
    assert {split for _, split in chosen} == {"train", "val", "test"}


def test_the_real_scans_are_divided(shared: Path):
    source = list_scenes(shared / "data" / "scans")
    assert len(source.candidates) >= 24
    share = [split for _, split in choose_scenes(source, SHARES, 42)].count("val") / len(source.candidates)
    assert share == pytest.approx(SHARES[1], abs=0.03)


def test_a_wrong_path_gets_a_similar_one_suggested(tmp_path):
    (tmp_path / "scannet").mkdir()
    with pytest.raises(DataError, match="does not exist") as caught:
        list_scenes(tmp_path / "scanet")
    assert "did you mean" in caught.value.hint
    assert "scannet" in caught.value.hint


def test_a_path_that_is_not_a_folder_of_scenes_is_refused(tmp_path):
    with pytest.raises(DataError, match="is a file, not a folder"):
        list_scenes(touch(tmp_path / "x" / "a.ply"))
    with pytest.raises(DataError, match="is a single scene"):
        list_scenes(touch(tmp_path / "scene" / "coord.npy").parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no scenes"):
        list_scenes(tmp_path / "empty")
    scenes(tmp_path / "two", "a.ply", "b.ply")
    with pytest.raises(DataError, match=r"too few scenes \(2\)"):
        choose_scenes(list_scenes(tmp_path / "two"), SHARES, 0)
    with pytest.raises(DataError, match=r"does not exist|cannot be opened"):
        list_scenes(Path("a\0b"))


def test_incomplete_splits_are_refused(tmp_path):
    scenes(tmp_path / "train", "a.ply")
    with pytest.raises(DataError, match="none for val"):
        list_scenes(tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="has no scenes"):
        list_scenes(tmp_path)
    scenes(tmp_path / "val", "b.ply")
    scenes(tmp_path, "c.ply")
    with pytest.raises(DataError, match=r"scenes next to its folders train, val, such as c\.ply"):
        list_scenes(tmp_path)


def test_a_folder_of_other_arrays_is_a_problem(divided):
    touch(divided / "train" / "odd" / "color.npy")
    touch(divided / "train" / "folder.ply" / "normal.npy")
    assert list_scenes(divided).problems == [
        "train/folder.ply: is a folder of arrays without coord.npy",
        "train/odd: is a folder of arrays without coord.npy",
    ]


def test_an_unrelated_folder_is_ignored(divided):
    before = list_scenes(divided)
    touch(divided / "train" / "notes" / "readme.txt")
    after = list_scenes(divided)
    assert after.problems == before.problems == []
    assert after.ignored == before.ignored + 1


@LINKS
def test_links_to_scenes_are_followed_anywhere(divided, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    scenes(outside, "other.ply", "scene")
    train = divided / "train"
    (train / "out.ply").symlink_to(outside / "other.ply")
    (train / "linked").symlink_to(outside / "scene")
    (train / "within.ply").symlink_to(train / "a.ply")
    (train / "notes").symlink_to(outside / "other.ply")  # its name has no known suffix
    source = list_scenes(divided)
    assert {"train/within.ply", "train/out.ply", "train/linked"} <= set(keys(source))
    assert source.linked == 2
    assert source.problems == []
    assert all(scene_path(divided, key).exists() for key in keys(source))


@LINKS
def test_a_folder_of_links_is_a_folder_of_scenes(tmp_path):
    scenes(tmp_path / "all", "a.ply", "b", "c.npz", "d.ply")
    (tmp_path / "subset").mkdir()
    for name in ("a.ply", "b", "c.npz"):
        (tmp_path / "subset" / name).symlink_to(f"../all/{name}")
    source = list_scenes(tmp_path / "subset")
    assert (keys(source), source.linked) == (["a.ply", "b", "c.npz"], 3)


@LINKS
def test_a_folder_of_broken_links_is_refused(tmp_path):
    (tmp_path / "scene0000_00").symlink_to("all/scene0000_00")
    with pytest.raises(DataError, match="has no scenes") as caught:
        list_scenes(tmp_path)
    assert caught.value.details == ["scene0000_00: is a link to a missing file or folder"]


@LINKS
def test_broken_links_are_problems(divided):
    train = divided / "train"
    (train / "missing.ply").symlink_to(train / "nothing.ply")
    (train / "loop.ply").symlink_to(train / "loop.ply")
    os.mkfifo(train / "pipe.ply")
    (train / "null.ply").symlink_to("/dev/null")
    (train / "gone").symlink_to(train / "nowhere")  # perhaps a scene folder
    (train / "readme.md").symlink_to(train / "nowhere")
    source = list_scenes(divided)
    assert dict(line.split(": ", 1) for line in source.problems) == {
        "train/gone": "is a link to a missing file or folder",
        "train/loop.ply": "cannot be opened: too many levels of symbolic links",
        "train/missing.ply": "is a link to a missing file",
        "train/null.ply": "is not a regular file",
        "train/pipe.ply": "is not a regular file",
    }


@LINKS
def test_links_inside_a_scene_may_leave_its_folder_only_on_request(divided, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    scenes(outside, "secret.npy")
    train = divided / "train"
    scenes(train, "mixed", "own", "other")
    (train / "mixed" / "color.npy").symlink_to(outside / "secret.npy")
    (train / "own" / "segment.npy").symlink_to("coord.npy")
    (train / "other" / "notes.txt").symlink_to(outside / "secret.npy")  # is not read
    (train / "again").symlink_to(train / "mixed")
    source = list_scenes(divided)
    assert {"train/own", "train/other"} <= set(keys(source))
    problem = (
        "has a link, color.npy, that points outside its folder; to allow such links, add --set data.follow_links=all"
    )
    assert source.problems == [f"train/again: {problem}", f"train/mixed: {problem}"]
    source = list_scenes(divided, follow_links="all")
    assert {"train/mixed", "train/again"} <= set(keys(source))
    assert source.problems == []


@LINKS
def test_a_linked_split_folder_is_followed(tmp_path):
    scenes(tmp_path / "elsewhere", "a.ply")
    scenes(tmp_path / "root" / "val", "b.ply")
    (tmp_path / "root" / "train").symlink_to(tmp_path / "elsewhere")
    assert keys(list_scenes(tmp_path / "root")) == ["train/a.ply", "val/b.ply"]


@LINKS
def test_a_link_to_a_name_that_is_too_long_is_not_a_split(tmp_path):
    scenes(tmp_path, "a.ply", "b.ply")
    (tmp_path / "train").symlink_to("x" * 300)
    source = list_scenes(tmp_path)
    assert keys(source) == ["a.ply", "b.ply"]
    assert len(source.problems) == 1
    assert source.problems[0].startswith("train: cannot be opened")


def test_unprintable_names_are_problems(divided):
    touch(divided / "train" / "bad\x1b[31m.ply")
    (problem,) = list_scenes(divided).problems
    assert "\x1b" not in problem
    assert "unprintable characters" in problem


@pytest.mark.parametrize("key", ["", "..", "../a.ply", "/etc/passwd", "a//b", "a/./b", "train/../../x", "a\0b"])
def test_keys_outside_the_folder_are_refused(tmp_path, key):
    with pytest.raises(DataError, match="does not name a scene"):
        scene_path(tmp_path, key)


def test_keys_name_their_files(divided):
    assert all(scene_path(divided, key).exists() for key in keys(list_scenes(divided)))


def test_a_folder_that_contains_scenes_is_a_problem(divided):
    touch(divided / "train" / "building" / "room.ply")
    touch(divided / "train" / "street" / "scene" / "coord.npy")
    assert list_scenes(divided).problems == [
        "train/building: is a folder that contains scenes; subfolders are not searched",
        "train/street: is a folder that contains scenes; subfolders are not searched",
    ]


def test_too_few_rooms_for_three_splits_are_refused(tmp_path):
    scenes(tmp_path, *(f"scene{room:04d}_{scan:02d}.ply" for room in range(2) for scan in range(3)))
    with pytest.raises(DataError, match=r"too few rooms \(scene0000, scene0001\)") as caught:
        choose_scenes(list_scenes(tmp_path), SHARES, 0)
    assert "train and val" in caught.value.hint


def test_system_files_are_skipped_at_every_depth(divided):
    before = list_scenes(divided)
    touch(divided / "__MACOSX" / "._a.ply")
    touch(divided / "__MACOSX" / "train" / "._a.ply")
    touch(divided / "@eaDir" / "a.ply" / "thumb.jpg")
    touch(divided / "train" / "lost+found" / "a.ply")
    touch(divided / "train" / ".ipynb_checkpoints" / "a-checkpoint.ply")
    touch(divided / "train" / "._a.ply")
    touch(divided / "train" / "Thumbs.db")
    touch(divided / "train" / "notes" / "._coord.npy")
    touch(divided / "train" / "notes" / "__MACOSX" / "coord.npy")
    touch(divided / "train" / "notes" / "@eaDir" / "coord.npy")
    after = list_scenes(divided)
    assert (after.candidates, after.problems, after.unread) == (before.candidates, [], {})
    assert after.ignored == before.ignored + 1


POINTS = "".join(f"{index}.5 2 -3e2 255 0 0\n" for index in range(50))


def test_scans_in_unsupported_formats_are_counted_by_suffix(divided):
    train = divided / "train"
    for name in ("a.ptx", "b.USDZ", "c.usdz", "d.v1.fls", "e.ply.gz", "f.npy", "deep/g.drc", "deep/h.drc"):
        touch(train / name)
    source = list_scenes(divided)
    assert source.unread == {".ptx": 1, ".usdz": 2, ".fls": 1, ".ply.gz": 1, ".npy": 1, ".drc": 2}
    assert source.problems == []


def test_tables_of_points_are_scenes_and_notes_are_not(divided):
    train = divided / "train"
    before = {candidate.key for candidate in list_scenes(divided).candidates}
    (train / "i.txt").write_text(POINTS)
    (train / "j.CSV").write_text("//X,Y,Z,R,G,B\n" + POINTS.replace(" ", ","))
    (train / "k.csv").write_text(POINTS.replace(" ", "; ").replace("\n", "\r\n"))
    (train / "pose.txt").write_text("1 0 0 0\n" * 4)
    (train / "lengths.txt").write_text("1 2\n" * 50)
    (train / "readme.txt").write_text("There are 3 rooms: 1, 2, 3\n" * 20)
    source = list_scenes(divided)
    found = {candidate.key for candidate in source.candidates} - before
    assert found == {"train/i.txt", "train/j.CSV", "train/k.csv"}
    assert source.ignored == 4  # notes, pose, lengths and readme
    assert source.problems == []


@pytest.mark.parametrize(
    "row",
    [
        "1.5 2 3 nan",
        "1.5,-NaN,2,-inf",
        "1.5 2 3 -nan(ind)",
        '"1.5","2","3"',
        " ".join(["-1234.56789"] * 64),
        "1,5\t2,25\t3",
    ],
)
def test_tables_with_wide_rows_and_unusual_numbers_are_scenes(tmp_path, row):
    (tmp_path / "a.txt").write_text("x y z and more\n" + f"{row}\n" * 40)
    assert keys(list_scenes(tmp_path)) == ["a.txt"]


def test_a_folder_of_notes_alone_gets_a_hint_what_counts_as_a_table(tmp_path):
    (tmp_path / "readme.txt").write_text("There are 3 rooms: 1, 2, 3\n" * 20)
    with pytest.raises(DataError, match="has no scenes") as caught:
        list_scenes(tmp_path)
    assert caught.value.hint.endswith(".txt and .csv count only if they begin with 10 lines of three numbers or more")


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders there")
def test_a_pipe_named_like_a_table_does_not_block(divided):
    os.mkfifo(divided / "train" / "pipe.txt")
    assert list_scenes(divided).unread == {}


def test_unsupported_scans_alone_get_a_hint_how_to_convert_them(tmp_path):
    touch(tmp_path / "a.fls")
    touch(tmp_path / "b.fls")
    touch(tmp_path / "c.ptx")
    with pytest.raises(DataError, match=r"has scans only in unsupported formats: 2 \.fls, 1 \.ptx") as caught:
        list_scenes(tmp_path)
    assert "save them as PLY" in caught.value.hint
