"""Arrays of any type and range become a scene, or are listed as unusable."""

import numpy as np
import pytest

from dbbd_cli.data.scenes.scene import SceneArrays, make_scene


def scene_with(count=4, **parts):
    return make_scene(SceneArrays(np.eye(count, 3), **parts))


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        (np.full((4, 3), 51, np.uint8), 0.2),
        (np.full((4, 3), 1, np.uint8), 1 / 255),
        (np.full((4, 3), 13107, np.uint16), 0.2),
        (np.full((4, 3), 51.0), 0.2),
        (np.full((4, 3), 0.2, np.float32), 0.2),
        (np.full((4, 3), 51, np.int64), 0.2),
        (np.full((4, 3), 13107, np.int32), 0.2),
    ],
)
def test_colors_are_scaled_to_one(color, expected):
    scene = scene_with(color=color)
    np.testing.assert_allclose(scene.color, expected, rtol=1e-5)


def color_of(values):
    scene = scene_with(len(values), color=values)
    assert scene.unusable == {}
    return scene.color


TYPES = ("u1", "u2", "u4", "u8", "i2", "i4", "i8", "f2", "f4", "f8", ">u2", ">i4", ">f4")


@pytest.mark.parametrize("kind", TYPES)
def test_eight_bit_colors_are_the_same_in_any_type(kind):
    np.testing.assert_allclose(color_of(np.array([[0, 51, 102], [153, 204, 255]] * 2, kind))[1], [0.6, 0.8, 1])


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in ("u1", "i2", "f2")])
def test_sixteen_bit_colors_are_the_same_in_any_type(kind):
    values = np.array([[0, 13107, 26214], [39321, 52428, 65535]] * 2, kind)
    np.testing.assert_allclose(color_of(values)[1], [0.6, 0.8, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1.0000001, 0.5, -1e-7]] * 4, [1, 0.5, 0]),
        ([[1.004, 0.5, -0.004]] * 4, [1, 0.5, 0]),
        ([[255.4, 51, -0.4]] * 4, [1, 0.2, 0]),
        ([[65535.5, 13107, -0.5]] * 4, [1, 0.2, 0]),
        ([[256, 51, 0]] * 4, [1, 0.2, 0]),
        ([[2.0, 0, 0]] * 4, [2 / 255, 0, 0]),
    ],
)
def test_small_excesses_of_the_range_are_clipped(values, expected):
    found = color_of(np.array(values))
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert found.min() >= 0
    assert found.max() <= 1


def test_opacity_and_a_sign_declared_by_mistake_are_dropped():
    assert color_of(np.full((4, 4), 51, "u1")).shape == (4, 3)
    np.testing.assert_allclose(color_of(np.array([[0, 51, 204]] * 4, "u1").view("i1"))[0], [0, 0.2, 0.8])


def test_the_scale_of_colors_depends_on_their_maximum():
    dark = np.full((4, 3), 200, "u2")
    assert color_of(dark).max() == np.float32(200 / 255)
    dark[0, 0] = 300
    assert color_of(dark).max() == np.float32(300 / 65535)


@pytest.mark.parametrize("value", [-1.0, -0.01, 1.01, 1.9, 70000.0, 2.0**40, np.nan, np.inf])
def test_invalid_colors_are_listed_as_unusable(value):
    color = np.full((4, 3), 0.5)
    color[2, 1] = value
    scene = scene_with(color=color)
    assert scene.color is None
    assert "its colors" in scene.unusable["color"]


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        (np.array([0.0, -1.0, np.nan, 3.0]), [0, -1, -1, 3]),
        (np.array([0, -100, 2, 3], np.int16), [0, -1, 2, 3]),
        (np.array([[0], [1], [2], [3]], np.uint8), [0, 1, 2, 3]),
        (np.array([0, 1, 2**32 - 1, 2], np.uint32), [0, 1, -1, 2]),
        (np.array([0, 1, 2**64 - 1, 2], np.uint64), [0, 1, -1, 2]),
        (np.array([0, 1, 2**32 - 1, 2], np.int64), [0, 1, -1, 2]),
        (np.array([0, 1, 2**32 - 1, 2], np.float32), [0, 1, -1, 2]),
        (np.array([0, 1, 2**64 - 1, 2], np.float64), [0, 1, -1, 2]),
        (np.array([0, 2**32 - 2, 2**32 - 100, 2], np.uint32), [0, -1, -1, 2]),
        (np.array([0, 2**64 - 2, 2**64 - 100, 2], np.uint64), [0, -1, -1, 2]),
        (np.array([0, 2**32 - 2, 2**32 - 100, 2], np.float64), [0, -1, -1, 2]),
        (np.array([0, 1, -np.inf, -(2.0**70)]), [0, 1, -1, -1]),
        (np.array([True, False, True, True]), [1, 0, 1, 1]),
        (np.array([0, np.nan, -1, 255], np.float16), [0, -1, -1, 255]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_labels_of_any_type_become_classes(segment, expected):
    assert scene_with(segment=segment).segment.tolist() == expected


@pytest.mark.parametrize(
    "segment",
    [np.array([0.5, 1, 2, 3]), np.full(4, np.inf), np.full(4, 2**40), np.full(4, 1e300), np.full(4, 2**32 - 2000)],
)
def test_invalid_labels_are_listed_as_unusable(segment):
    scene = scene_with(segment=segment)
    assert scene.segment is None
    assert "its labels" in scene.unusable["segment"]


@pytest.mark.parametrize(
    ("labels", "kind", "reserved"),
    [
        ([0, 1, 2, 255], "u1", 255),
        ([255] * 4, "u1", 255),
        ([0, 1, 2, 65535], "u2", 65535),
        ([0, 1, 2, 65535], ">u2", 65535),
        ([0, 1, 2, 255], "u2", None),
        ([0, 1, 2, 255], "i8", None),
        ([0, 1, 2, 255], "f8", None),
        ([0, 253, 254, 255], "u1", None),
        ([0, 1, 2, 254], "u1", None),
        ([0, 1, 2, 127], "i1", None),
    ],
)
def test_the_largest_value_of_an_unsigned_type_is_reserved_if_it_stands_apart(labels, kind, reserved):
    scene = scene_with(segment=np.array(labels, kind))
    assert scene.reserved_label == reserved
    assert scene.segment.tolist() == labels


def test_normals_are_normalized_and_unknown_ones_stay_zero():
    normal = np.array([[0, 0, 2], [0, 0, 0], [1e300, 0, 0], [3e-200, 4e-200, 0]])
    found = scene_with(normal=normal).normal
    np.testing.assert_allclose(found, [[0, 0, 1], [0, 0, 0], [1, 0, 0], [0.6, 0.8, 0]], atol=1e-6)


def test_the_number_of_points_is_limited(monkeypatch):
    monkeypatch.setattr("dbbd_cli.data.scenes.scene.MAX_POINTS", 9)
    with pytest.raises(ValueError, match="has 10 points; the limit is 9: downsample it first"):
        scene_with(10)


def test_labels_of_two_columns_are_unusable():
    assert scene_with(segment=np.zeros((4, 2), int)).unusable["segment"].startswith("its labels must be one number")
