"""A manifest lists usable scenes with their splits, names the others, and leads back to the same scenes."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.manifest import SPLITS, Manifest
from dbbd_cli.data.scenes import manifest as scene_manifest
from dbbd_cli.data.scenes.cache import Room, SceneRef, SceneSettings, prepared_scene, scene_in_cache
from dbbd_cli.data.scenes.manifest import make_room_manifest, make_scene_manifest, prepare_scenes, scene_refs
from dbbd_cli.data.scenes.reader import scene_digest

SETTINGS = SceneSettings(normal_neighbors=8, max_depth=2, min_region_points=16)
SHARES = (0.5, 0.25, 0.25)


class Recorder(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def save(path: Path, seed: int, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coord = np.random.default_rng(seed).random((100, 3), dtype=np.float32)
    path.write_bytes(pickle.dumps({"coords": coord, "normals": np.eye(3, dtype=np.float32)[[0] * 100], **content}))


def divided(root: Path, **counts: int) -> Path:
    """A folder with a folder for each split."""
    for split, count in counts.items():
        for number in range(count):
            save(root / split / f"scene{number:02d}.pkl", hash_of(split, number))
    return root


def hash_of(split: str, number: int) -> int:
    return 100 * SPLITS.index(split) + number


def manifest_of(
    root: Path,
    cache: Path,
    recorder: Recorder | None = None,
    max_scenes: Mapping[str, int | None] | None = None,
    **changes: Any,
) -> Manifest:
    settings: dict[str, Any] = {
        "shares": SHARES,
        "needs_color": False,
        "needs_normals": True,
        "follow_links": "scenes",
        "on_error": "fail",
        "settings": SETTINGS,
        "cache_dir": cache,
        "seed": 1,
        **changes,
    }
    return make_scene_manifest(root, max_scenes=max_scenes or {}, progress=recorder or Recorder(), **settings)


def keys(manifest: Manifest, split: str) -> list[str]:
    return [sample.key for sample in manifest.of(split)]


def refs_of(manifest: Manifest, split: str, root: Path | None) -> list[SceneRef]:
    return scene_refs(manifest, split, root=root, num_points=1000, seed=3)


# Splits


def test_split_folders_are_respected(tmp_path: Path) -> None:
    root = divided(tmp_path / "scenes", train=3, val=2, test=1)
    manifest = manifest_of(root, tmp_path / "cache")
    assert manifest.source == "scenes"
    assert manifest.classes == ()
    assert manifest.roots == (str(root),)
    assert manifest.counts() == {"train": 3, "val": 2, "test": 1}
    assert keys(manifest, "train") == [f"train/scene{number:02d}.pkl" for number in range(3)]
    for sample in manifest.samples:
        assert sample.key.startswith(f"{sample.split}/")
        assert sample.sha256 == scene_digest(root / sample.key)


def test_a_folder_without_a_test_split_has_none(tmp_path: Path) -> None:
    manifest = manifest_of(divided(tmp_path / "scenes", train=2, val=1), tmp_path / "cache")
    assert manifest.counts() == {"train": 2, "val": 1, "test": 0}
    (tmp_path / "splits.json").write_text(manifest.to_json(), encoding="utf-8")
    assert Manifest.load(tmp_path / "splits.json") == manifest


def test_an_undivided_folder_is_divided_by_shares_and_seed(tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    for number in range(8):
        save(root / f"scene{number:02d}.pkl", number)
    manifest = manifest_of(root, tmp_path / "cache")
    assert manifest.counts() == {"train": 4, "val": 2, "test": 2}
    assert manifest == manifest_of(root, tmp_path / "other cache")
    other = manifest_of(root, tmp_path / "cache", seed=2)
    assert other.counts() == manifest.counts()
    assert keys(other, "train") != keys(manifest, "train")
    assert manifest_of(root, tmp_path / "cache", shares=(0.25, 0.5, 0.25)).counts()["val"] == 4


def test_the_first_scenes_of_each_split_are_kept(tmp_path: Path) -> None:
    root = divided(tmp_path / "scenes", train=4, val=3, test=2)
    manifest = manifest_of(root, tmp_path / "cache", max_scenes={"train": 2, "val": None, "test": 1})
    assert manifest.limited_from == {"train": 4, "test": 2}
    assert manifest.counts() == {"train": 2, "val": 3, "test": 1}
    assert keys(manifest, "train") == ["train/scene00.pkl", "train/scene01.pkl"]


def test_scenes_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    root = divided(tmp_path / "scenes", train=2, val=1)
    (root / "train" / "scene99.pkl").write_bytes(b"not a scene")
    manifest = manifest_of(root, tmp_path / "cache", max_scenes={"train": 2})
    assert manifest.skipped == ()


def test_other_files_are_ignored_and_counted(tmp_path: Path) -> None:
    root, recorder = divided(tmp_path / "scenes", train=1, val=1), Recorder()
    (root / "train" / "notes.txt").write_text("")
    (root / "README.md").write_text("")
    manifest_of(root, tmp_path / "cache", recorder)
    assert recorder.lines == ["Files and folders that are not scenes were ignored: 2."]


# Unusable scenes


def spoil(root: Path) -> None:
    """Make three scenes unusable, each in a different way."""
    (root / "train" / "scene00.pkl").write_bytes(b"")
    coord = np.random.default_rng(0).random((100, 3))
    coord[7] = np.nan
    save(root / "train" / "scene02.pkl", 0, coords=coord)
    region = {"indices": [0], "center_idx": 0, "level": 0, "children": []}
    save(root / "val" / "scene01.pkl", 0, hierarchy=region)


def test_all_unusable_scenes_are_named_together(tmp_path: Path) -> None:
    root = divided(tmp_path / "scenes", train=4, val=3)
    spoil(root)
    with pytest.raises(DataError, match="3 scenes are unusable") as caught:
        manifest_of(root, tmp_path / "cache")
    details = caught.value.details
    assert [Path(detail.split(": ")[0]).name for detail in details] == ["scene00.pkl", "scene02.pkl", "scene01.pkl"]
    assert "not finite at point 7" in details[1]
    assert "root contains 1 points" in details[2]
    assert "data.on_error=skip" in caught.value.hint


def test_scenes_that_are_left_out_are_replaced_by_the_next_ones(tmp_path: Path) -> None:
    root = divided(tmp_path / "scenes", train=4, val=3)
    spoil(root)
    manifest = manifest_of(root, tmp_path / "cache", on_error="skip", max_scenes={"train": 2, "val": 1})
    assert keys(manifest, "train") == ["train/scene01.pkl", "train/scene03.pkl"]
    assert keys(manifest, "val") == ["val/scene00.pkl"]
    assert len(manifest.skipped) == 2  # of those that were checked


def test_a_single_unusable_scene_is_reported_with_its_own_hint(tmp_path: Path) -> None:
    root = divided(tmp_path / "scenes", train=2, val=1)
    (root / "train" / "scene01.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"train/scene01\.pkl") as caught:
        manifest_of(root, tmp_path / "cache")
    assert "is an empty file" in caught.value.message
    assert "fix or remove the file" in caught.value.hint


def test_a_missing_package_is_named_for_each_scene_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = divided(tmp_path / "scenes", train=1, val=1)
    monkeypatch.setitem(sys.modules, "trimesh", None)
    for name in ("one.obj", "two.obj"):
        (root / "train" / name).write_bytes(b"v 0 0 0\n")
    with pytest.raises(DataError, match="2 scenes are unusable") as caught:
        manifest_of(root, tmp_path / "cache")
    assert all('pip install "dbbd-cli[mesh]"' in line for line in caught.value.details)


def test_unusable_scenes_are_left_out_and_reported_on_request(tmp_path: Path) -> None:
    root, recorder = divided(tmp_path / "scenes", train=4, val=3), Recorder()
    spoil(root)
    manifest = manifest_of(root, tmp_path / "cache", recorder, on_error="skip")
    assert keys(manifest, "train") == ["train/scene01.pkl", "train/scene03.pkl"]
    assert keys(manifest, "val") == ["val/scene00.pkl", "val/scene02.pkl"]
    assert len(manifest.skipped) == 3
    assert recorder.warnings == ["3 scenes skipped; see splits.json of the run for the reasons."]


@pytest.mark.parametrize(("split", "others"), [("train", "val"), ("val", "train")])
def test_a_split_without_usable_scenes_is_an_error(tmp_path: Path, split: str, others: str) -> None:
    root = divided(tmp_path / "scenes", **{split: 2, others: 1})
    for path in (root / split).iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=f"no usable scenes left for {split}") as caught:
        manifest_of(root, tmp_path / "cache", on_error="skip")
    assert len(caught.value.details) == 2


def test_colors_are_required_only_if_they_are_used(tmp_path: Path) -> None:
    root = divided(tmp_path / "scenes", train=2, val=1)
    save(root / "train" / "scene00.pkl", 0, colors=np.zeros((100, 3), np.uint8))
    assert manifest_of(root, tmp_path / "cache").counts()["train"] == 2
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError, match="2 scenes are unusable") as caught:
            manifest_of(root, tmp_path / "cache", needs_color=True)
        assert all("has no colors, which data.features requires" in detail for detail in caught.value.details)
        manifest = manifest_of(root, tmp_path / "cache")
        prepare_scenes(refs_of(manifest, "train", root), SETTINGS, tmp_path / "cache", Silent())


def test_a_scene_without_a_wanted_property_is_unusable(tmp_path: Path) -> None:
    root = divided(tmp_path / "scenes", train=2, val=1)
    save(root / "train" / "scene00.pkl", 0, intensity=np.arange(100))
    for path in (root / "train" / "scene01.pkl", root / "val" / "scene00.pkl"):
        save(path, hash_of("val", 5), intensity=np.arange(99))  # not of each point
    with pytest.raises(DataError, match="2 scenes are unusable") as caught:
        manifest_of(root, tmp_path / "cache", settings=replace(SETTINGS, properties=("intensity",)))
    assert all("has no property 'intensity'" in detail for detail in caught.value.details)


DAMAGED = {
    "normals": ("needs_normals", "has 100 points and 99 normals"),
    "colors": ("needs_color", "its colors are not finite at point 3 (counted from 0)"),
}


@pytest.mark.parametrize("part", DAMAGED)
def test_damaged_parts_are_refused_only_if_they_are_used(tmp_path: Path, part: str) -> None:
    needed, reason = DAMAGED[part]
    color = np.full((100, 3), 0.5)
    color[3] = np.nan
    root = divided(tmp_path / "scenes", train=2, val=1)
    bad = {"normals": np.ones((99, 3)), "colors": color}[part]
    save(root / "train" / "scene00.pkl", 0, **{part: bad, "segment20": ["wall"] * 100})
    unused = {"needs_normals": False, "needs_color": False}
    for _ in range(2):  # the second time from the cache
        manifest = manifest_of(root, tmp_path / "cache", **unused)
        assert manifest.counts()["train"] == 2
        with pytest.raises(DataError) as caught:
            manifest_of(root, tmp_path / "cache", **{**unused, needed: True, "max_scenes": {"train": 1}})
        errors = [caught.value.message, *caught.value.details]
        assert any(f"{root / 'train' / 'scene00.pkl'}: {reason}" in error for error in errors)
        prepare_scenes(refs_of(manifest, "train", root), SETTINGS, tmp_path / "cache", Silent())


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_linked_scenes_are_used_and_identified_by_content(tmp_path: Path) -> None:
    root, recorder = divided(tmp_path / "scenes", train=2, val=1), Recorder()
    save(tmp_path / "elsewhere" / "a.pkl", 7)
    (root / "train" / "link.pkl").symlink_to(tmp_path / "elsewhere" / "a.pkl")
    manifest = manifest_of(root, tmp_path / "cache", recorder)
    assert keys(manifest, "train") == ["train/link.pkl", "train/scene00.pkl", "train/scene01.pkl"]
    assert "1 scene is a link to places outside the folder." in recorder.lines
    refs = refs_of(manifest, "train", root)
    assert refs[0].sha256 == scene_digest(tmp_path / "elsewhere" / "a.pkl")
    save(tmp_path / "elsewhere" / "a.pkl", 8)
    with pytest.raises(DataError, match="has changed since the run started"):
        prepare_scenes(refs, SETTINGS, tmp_path / "cache", Silent())


def test_scans_in_unsupported_formats_trigger_a_warning(tmp_path: Path) -> None:
    root, recorder = divided(tmp_path / "scenes", train=2, val=1), Recorder()
    (root / "train" / "a.ptx").write_bytes(b"LASF")
    (root / "val" / "b.ptx").write_bytes(b"LASF")
    manifest_of(root, tmp_path / "cache", recorder)
    assert recorder.warnings == ["2 scans in unsupported formats were skipped: 2 .ptx."]


def test_copies_in_more_than_one_split_trigger_a_warning(tmp_path: Path) -> None:
    root, recorder = divided(tmp_path / "scenes", train=3, val=2), Recorder()
    manifest_of(root, tmp_path / "cache", recorder)
    assert recorder.warnings == []
    shutil.copy(root / "train" / "scene00.pkl", root / "train" / "scene01.pkl")  # harmless within a split
    manifest_of(root, tmp_path / "cache", recorder)
    assert recorder.warnings == []
    shutil.copy(root / "train" / "scene02.pkl", root / "val" / "scene01.pkl")
    manifest_of(root, tmp_path / "cache", recorder)
    (warning,) = recorder.warnings
    assert "1 scene is in more than one split" in warning
    assert "train/scene02.pkl (train) = val/scene01.pkl (val)" in warning


def test_prepared_scenes_are_only_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = divided(tmp_path / "scenes", train=2, val=1)
    manifest = manifest_of(root, tmp_path / "cache")
    for split in ("train", "val"):
        prepare_scenes(refs_of(manifest, split, root), SETTINGS, tmp_path / "cache", Silent())
    monkeypatch.setattr(scene_manifest, "read_source", lambda ref, _: pytest.fail(f"{ref.name} was read"))
    assert manifest_of(root, tmp_path / "cache") == manifest
    (root / "train" / "scene00.pkl").write_bytes(b"something else")
    with pytest.raises(pytest.fail.Exception, match="was read"):
        manifest_of(root, tmp_path / "cache")


# Rooms


def rooms(count: int = 8, **changes: Any) -> Manifest:
    settings: dict[str, Any] = {"num_points": 1000, "shares": SHARES, "max_scenes": {}, "seed": 3, **changes}
    return make_room_manifest(count, **settings)


def test_rooms_are_divided_like_scenes(tmp_path: Path) -> None:
    manifest = rooms()
    assert manifest.source == "rooms"
    assert manifest.counts() == {"train": 4, "val": 2, "test": 2}
    assert sorted(sample.key for sample in manifest.samples) == [f"room{index:05d}" for index in range(8)]
    assert len({sample.sha256 for sample in manifest.samples}) == 8
    assert rooms() == manifest
    assert keys(rooms(seed=4), "train") != keys(manifest, "train")
    limited = rooms(max_scenes={"train": 1, "test": None})
    assert limited.counts() == {"train": 1, "val": 2, "test": 2}
    assert limited.limited_from == {"train": 4}
    assert rooms(max_scenes={"train": 4, "val": 50}).limited_from == {}
    assert keys(limited, "train") == keys(manifest, "train")[:1]
    (ref, *_) = refs_of(manifest, "val", None)
    assert ref.source == Room(3, int(keys(manifest, "val")[0][4:]), 1000)


def test_rooms_of_another_generator_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = rooms()
    monkeypatch.setattr("dbbd_cli.data.scenes.cache.GENERATOR_VERSION", 99)
    with pytest.raises(DataError, match="another version of the generator"):
        refs_of(manifest, "train", None)


@pytest.mark.parametrize("key", ["room-1", "room", "../room1", "room²"])
def test_an_edited_list_of_rooms_is_refused(key: str) -> None:
    manifest = rooms()
    samples = (replace(manifest.samples[0], key=key, split="train"), *manifest.samples[1:])
    with pytest.raises(DataError, match="is not a synthetic room"):
        refs_of(replace(manifest, samples=samples), "train", None)


# From a manifest back to scenes


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Manifest]:
    root = divided(tmp_path / "scenes", train=2, val=1)
    return root, manifest_of(root, tmp_path / "cache")


def prepared(refs: Sequence[SceneRef], cache: Path) -> list[int]:
    """Prepare the scenes; returns the number of points of each in the cache."""
    prepare_scenes(refs, SETTINGS, cache, Silent())
    found = [scene_in_cache(ref, SETTINGS, cache) for ref in refs]
    return [scene.num_points if scene is not None else -1 for scene in found]


def test_prepared_scenes_are_in_the_cache(tmp_path: Path) -> None:
    root = divided(tmp_path / "scenes", train=2, val=1)
    save(root / "train" / "scene01.pkl", 0, coords=np.random.default_rng(0).random((57, 3)), normals=None)
    manifest = manifest_of(root, tmp_path / "cache")
    assert prepared(refs_of(manifest, "train", root), tmp_path / "cache") == [100, 57]


def test_a_folder_that_moved_is_found_at_its_new_path(made: tuple[Path, Manifest], tmp_path: Path) -> None:
    root, manifest = made
    moved = root.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"scene00\.pkl cannot be opened") as caught:
        prepared(refs_of(manifest, "train", root), tmp_path / "cache")
    assert "--set data.path=DIR" in caught.value.hint
    assert prepared(refs_of(manifest, "train", moved), tmp_path / "cache") == [100, 100]
    # Scenes in the cache need no folder at all.
    assert prepared(refs_of(manifest, "train", root), tmp_path / "cache") == [100, 100]


def test_a_scene_that_changed_is_never_used(made: tuple[Path, Manifest], tmp_path: Path) -> None:
    root, manifest = made
    before = [prepared_scene(ref, SETTINGS, tmp_path / "cache") for ref in refs_of(manifest, "train", root)]
    save(root / "train" / "scene01.pkl", 77)
    after = [prepared_scene(ref, SETTINGS, tmp_path / "cache") for ref in refs_of(manifest, "train", root)]
    assert all(np.array_equal(one.coord, two.coord) for one, two in zip(before, after, strict=True))
    with pytest.raises(DataError, match=r"scene01\.pkl has changed since the run started") as caught:
        prepared(refs_of(manifest, "train", root), tmp_path / "empty cache")
    assert "restore the original" in caught.value.hint
    assert "data.path=DIR" in caught.value.hint


def test_a_key_outside_the_folder_is_refused(made: tuple[Path, Manifest]) -> None:
    root, manifest = made
    samples = (replace(manifest.samples[0], key="../../secret.pkl"), *manifest.samples[1:])
    with pytest.raises(DataError, match="does not name a scene in its folder"):
        refs_of(replace(manifest, samples=samples), "train", root)


def test_scenes_of_every_format_are_listed(tmp_path: Path) -> None:
    root = divided(tmp_path / "scenes", train=1, val=1)
    coord = np.random.default_rng(5).random((60, 3), dtype=np.float32)
    np.savez(root / "train" / "second.npz", coord=coord)
    folder = root / "train" / "third"
    folder.mkdir()
    np.save(folder / "coord.npy", coord[:50])
    lines = "\n".join(" ".join(map(str, row)) for row in coord[:40])
    header = (
        "ply\nformat ascii 1.0\nelement vertex 40\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    (root / "train" / "fourth.ply").write_text(f"{header}{lines}\n")
    manifest = manifest_of(root, tmp_path / "cache")
    assert keys(manifest, "train") == [f"train/{name}" for name in ("fourth.ply", "scene00.pkl", "second.npz", "third")]
    assert prepared(refs_of(manifest, "train", root), tmp_path / "cache") == [40, 100, 60, 50]
