"""E57 files written by pye57."""

import numpy as np
import pytest

from dbbd_cli.data.scenes.formats.e57 import e57_blocks, read_e57
from dbbd_cli.data.scenes.scene import SceneArrays
from unit.data.scenes.formats import written

pytest.importorskip("pye57")

RNG = np.random.default_rng(0)
N = 100
COORD = RNG.random((N, 3)) * [40, 30, 10]
COLOR = RNG.integers(0, 256, (N, 3)).astype(np.uint8)
INTENSITY = RNG.random(N).astype(np.float32)
SCENE = SceneArrays(COORD, color=COLOR, properties={"intensity": INTENSITY})


@pytest.mark.parametrize("parts", [1, 3])
def test_scans_are_joined_by_their_poses(tmp_path, parts):
    found = read_e57(written.e57(tmp_path / "a.e57", SCENE, parts))
    np.testing.assert_allclose(found.coord, COORD, atol=1e-4)
    np.testing.assert_array_equal(found.color, COLOR)
    np.testing.assert_allclose(found.properties["intensity"], INTENSITY)


def test_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("dbbd_cli.data.scenes.formats.e57.BLOCK_POINTS", 30)
    blocks = list(e57_blocks(written.e57(tmp_path / "a.e57", SCENE, 2)))
    assert [len(block.coord) for block in blocks] == [30, 20, 30, 20]
    np.testing.assert_allclose(np.concatenate([block.coord for block in blocks]), COORD, atol=1e-4)


def test_points_that_are_marked_invalid_are_left_out(tmp_path):
    import pye57

    columns = dict(zip(("cartesianX", "cartesianY", "cartesianZ"), COORD.T.copy(), strict=True))
    invalid = (np.arange(N) % 4 == 0).astype(np.int8)
    with pye57.E57(str(tmp_path / "a.e57"), mode="w") as file:
        file.write_scan_raw({**columns, "cartesianInvalidState": invalid})
    np.testing.assert_allclose(read_e57(tmp_path / "a.e57").coord, COORD[invalid == 0], atol=1e-4)


def test_files_that_are_no_scans_are_refused(tmp_path):
    path = written.e57(tmp_path / "a.e57", SCENE)
    content = path.read_bytes()
    path.write_bytes(b"ply\n" + content[4:])
    with pytest.raises(ValueError, match="is not an E57 file"):
        read_e57(path)
    for length in range(0, len(content) - 100, 997):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError):
            read_e57(path)
    path.write_bytes(content.replace(b"<formatName", b"<!DOCTYPE ", 1))
    with pytest.raises(ValueError, match="XML that E57 files do not use"):
        read_e57(path)
