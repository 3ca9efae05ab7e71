"""Pickled scenes are read from arrays, tensors and lists, and no code in a pickle runs."""

import os
import pickle
import tracemalloc

import numpy as np
import pytest

from dbbd_cli.data.scenes.reader import read_scene
from unit.data.scenes.scene_files import COLOR, COORD, NORMAL, SEGMENT, refused


def test_a_pickle_may_hold_lists_and_arrays(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"coord": COORD.tolist(), "normal": [*NORMAL], "segment": [int(s) for s in SEGMENT]}))
    scene = read_scene(path)
    np.testing.assert_allclose(scene.coord + scene.shift, COORD, atol=1e-6)
    np.testing.assert_array_equal(scene.segment, SEGMENT)


@pytest.mark.parametrize("rows", [list, tuple, np.array])
def test_colors_in_lists_may_have_an_opacity(tmp_path, rows):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"coord": COORD, "rgba": [rows([*color, 9]) for color in COLOR.tolist()]}))
    np.testing.assert_allclose(read_scene(path).color, COLOR / 255, atol=1e-6)


def test_the_first_of_two_equal_names_counts(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"coord": COORD, "Label": SEGMENT, "label": SEGMENT + 1}))
    np.testing.assert_array_equal(read_scene(path).segment, SEGMENT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "does not contain a dict"),
        ({}, "has no coordinates"),
        ({"coords": "x"}, "has no coordinates"),
        ({"coords": {"x": 1}}, "is not an array"),
        ({"coords": [[1, 2, 3], [4, 5]]}, "rows of 3 numbers"),
        ({"coords": [np.array(1.0)] * 4}, "rows of 3 numbers"),
        ({"coords": [[1, 2, "x"]] * 4}, "something other than numbers"),
        ({"coords": [[1, 2, 10**400], [0.5, 1, 2]] * 2}, "numbers"),
        ({"coords": [["1", "2", "3"]] * 4}, "something other than numbers"),
        ({"coords": [np.zeros(10**4)] * 4}, "rows of 3 numbers"),
        ({"coords": COORD, "hierarchy": [1]}, "hierarchy is not a dict"),
        ({"coords": COORD, "num_points": 13}, "declares 13 points, but has 12"),
        ({"coords": np.array([["a"] * 3] * 4)}, "must be 3 numbers per point"),
    ],
)
def test_pickles_with_other_content_are_refused(tmp_path, content, reason):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    assert reason in refused(path)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("payload-was-run",)


def test_a_payload_is_named_but_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"coords": COORD, "hierarchy": {"children": [Payload()]}}))
    message = refused(path)
    assert f"{os.mkdir.__module__}.mkdir" in message
    assert "nothing in it was run" in message
    assert not (tmp_path / "payload-was-run").exists()


def test_a_payload_after_the_long_line_of_an_array_is_named(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": np.ones(500), "y": Payload()}, protocol=0))
    assert max(map(len, (tmp_path / "a.pkl").read_bytes().splitlines())) > 1000
    assert f"{os.mkdir.__module__}.mkdir" in refused(tmp_path / "a.pkl")


@pytest.mark.parametrize("start", [b"}", b"c", b"I"])
def test_little_of_a_huge_sparse_pickle_is_read(tmp_path, start):
    with (tmp_path / "a.pkl").open("wb") as file:
        file.write(b"\x80\x02" + start)
        file.truncate(10**9)
    tracemalloc.start()
    try:
        assert "is not a valid pickle" in refused(tmp_path / "a.pkl")
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()
