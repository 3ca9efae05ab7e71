"""PCD files as PCL writes them."""

import numpy as np
import pytest

from dbbd_cli.data.scenes.formats.pcd import read_pcd
from dbbd_cli.data.scenes.scene import SceneArrays
from unit.data.scenes.formats import written

RNG = np.random.default_rng(0)
N = 120
COORD = RNG.normal(size=(N, 3)).astype(np.float32)
COLOR = RNG.integers(0, 256, (N, 3)).astype(np.uint8)
NORMAL = RNG.normal(size=(N, 3)).astype(np.float32)
LABEL = RNG.integers(0, 5, N)
INTENSITY = RNG.random(N).astype(np.float32)
SCENE = SceneArrays(COORD, NORMAL, COLOR, LABEL, properties={"intensity": INTENSITY})
DATA = written.PCD_DATA


@pytest.mark.parametrize("data", DATA)
def test_every_field_of_every_kind_of_file_is_read(tmp_path, data):
    found = read_pcd(written.pcd(tmp_path / "a.pcd", SCENE, data))
    np.testing.assert_allclose(found.coord, COORD, rtol=1e-6)
    np.testing.assert_allclose(found.normal, NORMAL, rtol=1e-6)
    np.testing.assert_array_equal(found.color, COLOR)
    np.testing.assert_array_equal(found.segment[:, 0], LABEL)
    np.testing.assert_allclose(found.properties["intensity"], INTENSITY, rtol=1e-6)
    assert list(found.properties) == ["intensity"]


@pytest.mark.parametrize("data", DATA)
def test_points_that_a_sensor_did_not_see_are_left_out(tmp_path, data):
    coord = COORD.copy()
    coord[[3, 50]] = np.nan
    organized = SceneArrays(coord, NORMAL, COLOR, LABEL, properties={"intensity": INTENSITY})
    found = read_pcd(written.pcd(tmp_path / "a.pcd", organized, data, height=4))
    keep = np.delete(np.arange(N), [3, 50])
    np.testing.assert_allclose(found.coord, COORD[keep], rtol=1e-6)
    np.testing.assert_array_equal(found.color, COLOR[keep])
    np.testing.assert_array_equal(found.segment[:, 0], LABEL[keep])
    np.testing.assert_allclose(found.properties["intensity"], INTENSITY[keep], rtol=1e-6)


def test_repetitive_points_are_unpacked(tmp_path):
    """They are packed as long repeats that overlap themselves."""
    same = SceneArrays(np.repeat(COORD[:4], 5000, axis=0))
    path = written.pcd(tmp_path / "a.pcd", same, "binary_compressed")
    assert path.stat().st_size < same.coord.nbytes / 10
    np.testing.assert_array_equal(read_pcd(path).coord, same.coord)


def test_colors_as_integers_and_as_text_of_floats(tmp_path):
    head = "VERSION .7\nFIELDS x y z {}\nSIZE 4 4 4 4\nTYPE F F F {}\nWIDTH 4\nHEIGHT 1\nDATA ascii\n"
    rows = "0 0 0 {0}\n1 0 0 {0}\n0 1 0 {0}\n0 0 1 {0}\n"
    packed = np.uint32(200 << 16 | 100 << 8 | 50)
    for name, kind, value in (("rgb", "U", packed), ("rgba", "U", packed | 255 << 24), ("rgb", "F", packed.view("f4"))):
        path = tmp_path / "a.pcd"
        path.write_text(head.format(name, kind) + rows.format(value))
        np.testing.assert_array_equal(read_pcd(path).color, [[200, 100, 50]] * 4)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (b"DATA binary_compressed", b"DATA zip", "it has no line DATA"),
        (b"POINTS 120", b"POINTS 120000", "is damaged"),
        (b"POINTS 120", b"POINTS 999999999999", "no valid line POINTS"),
        (b"POINTS 120", b"POINTS 99999999", "the limit is 20,000,000"),
        (b"SIZE 4", b"SIZE 3", "unknown type F of 3 bytes"),
        (b"FIELDS x", b"FIELDS u", "no x, y and z"),
        (b"COUNT 1", b"COUNT 5000", "more than 4,096 bytes for each point"),
    ],
)
def test_invalid_headers_are_refused(tmp_path, before, after, message):
    path = written.pcd(tmp_path / "a.pcd", SCENE, "binary_compressed")
    path.write_bytes(path.read_bytes().replace(before, after, 1))
    with pytest.raises(ValueError, match=message):
        read_pcd(path)


@pytest.mark.parametrize("data", DATA)
def test_truncated_files_are_refused(tmp_path, data):
    path = written.pcd(tmp_path / "a.pcd", SCENE, data)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"is truncated|does not contain 12 numbers"):
        read_pcd(path)
