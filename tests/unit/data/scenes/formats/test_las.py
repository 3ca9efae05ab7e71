"""LAS and LAZ files written by laspy."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from dbbd_cli.data.scenes.formats.las import las_blocks, read_las
from dbbd_cli.data.scenes.reader import Sampling, read_scene
from dbbd_cli.data.scenes.scene import SceneArrays
from unit.data.scenes.formats import written

laspy = pytest.importorskip("laspy")
pytest.importorskip("lazrs")

RNG = np.random.default_rng(0)
N = 200
COORD = RNG.random((N, 3)) * [40, 30, 10] + [450_000, 5_400_000, 300]
COLOR = RNG.integers(0, 256, (N, 3)).astype(np.uint8)
NORMAL = RNG.normal(size=(N, 3)).astype(np.float32)
LABEL = RNG.integers(0, 20, N)
PROPERTIES = {"intensity": RNG.integers(0, 65_536, N).astype(np.uint16), "height": RNG.random(N).astype(np.float32)}
SCENE = SceneArrays(COORD, NORMAL, COLOR, LABEL, properties=PROPERTIES)


@pytest.mark.parametrize("name", ["a.las", "a.laz"])
def test_every_part_is_read(tmp_path, name):
    found = read_las(written.las(tmp_path / name, SCENE))
    np.testing.assert_allclose(found.coord, COORD, atol=1e-4)
    np.testing.assert_array_equal(found.color, COLOR.astype(int) * 257)
    np.testing.assert_array_equal(found.normal, NORMAL)
    np.testing.assert_array_equal(found.segment[:, 0], LABEL)
    for part, values in PROPERTIES.items():
        np.testing.assert_array_equal(found.properties[part], values)
    assert {"return_number", "gps_time", "scan_angle"} <= found.properties.keys()


@pytest.mark.parametrize("grid_size", [None, 0.01])
def test_points_that_were_never_classified_have_no_labels(tmp_path, grid_size):
    for name, change in (
        ("never.laz", {"segment": np.zeros(N, int)}),
        ("partly.laz", {"segment": np.arange(N) // (N - 1)}),
        ("elsewhere.laz", {"segment": None, "properties": {"label": np.zeros(N, np.uint8)}}),
    ):
        written.las(tmp_path / name, replace(SCENE, **change))
        scene = read_scene(tmp_path / name, sampling=Sampling(grid_size))
        assert scene.num_points == N
        assert (scene.segment is None) == (name == "never.laz")
        assert scene.unusable == {}


@pytest.mark.parametrize("form", [0, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["las", "laz"])
def test_every_point_format_and_several_chunks(tmp_path, form, suffix, monkeypatch):
    header = laspy.LasHeader(point_format=form, version="1.2" if form < 6 else "1.4")
    header.scales = [0.001] * 3
    file = laspy.LasData(header)
    coord = RNG.random((60_000, 3)) * 50
    file.x, file.y, file.z = coord.T
    file.write(str(tmp_path / f"a.{suffix}"))
    monkeypatch.setattr("dbbd_cli.data.scenes.formats.las.BLOCK_POINTS", 7000)
    blocks = list(las_blocks(tmp_path / f"a.{suffix}"))
    assert len(blocks) == 9
    np.testing.assert_allclose(np.concatenate([block.coord for block in blocks]), coord, atol=1e-3)
    assert (blocks[0].color is None) == (form in (0, 6))


def test_copc_is_read_like_any_other_laz_file(tmp_path):
    """Its chunks, one for each node of an octree, have different sizes, and its first record is that of COPC."""
    import lazrs

    header = laspy.LasHeader(point_format=6, version="1.4")
    header.scales = [0.001] * 3
    file = laspy.LasData(header)
    coord = RNG.random((5000, 3)) * 50
    file.x, file.y, file.z = coord.T
    file.classification = np.arange(5000) % 7
    file.update_header()
    packing = lazrs.LazVlr.new_for_compression(6, 0, use_variable_size_chunks=True)
    header.vlrs.extend(
        [
            laspy.VLR("copc", 1, "COPC info", bytes(160)),
            laspy.vlrs.known.LasZipVlr(packing.record_data()),
        ]
    )
    header.are_points_compressed = True
    path = tmp_path / "a.copc.laz"
    with path.open("wb+") as out:
        header.write_to(out)
        compressor = lazrs.LasZipCompressor(out, packing)
        points, start = file.points.array, 0
        for count in (1, 1700, 3000, 299):
            if start:
                compressor.finish_current_chunk()
            compressor.compress_many(points[start : start + count].view(np.uint8))
            start += count
        compressor.done()
    with laspy.open(path) as opened:
        assert opened.header.vlrs[0].user_id == "copc"
    found = read_las(path)
    np.testing.assert_allclose(found.coord, coord, atol=1e-3)
    np.testing.assert_array_equal(found.segment[:, 0], np.arange(5000) % 7)


@pytest.mark.parametrize("name", ["a.las", "a.laz"])
@pytest.mark.parametrize("form", [3, 7])
def test_a_file_without_points_says_so(tmp_path, name, form):
    laspy.LasData(laspy.LasHeader(point_format=form, version="1.4")).write(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"^has no points$"):
        read_las(tmp_path / name)


@pytest.mark.parametrize("name", ["a.las", "a.laz"])
def test_damaged_headers_are_refused(tmp_path, name):
    path = written.las(tmp_path / name, SCENE)
    content = path.read_bytes()
    changes = {
        100: struct.pack("<I", 2**32 - 1),  # records before the points
        96: struct.pack("<I", 2**31),  # place of the points
        247: struct.pack("<Q", 2**40),  # number of points
        0: b"LASX",
    }
    for place, value in changes.items():
        path.write_bytes(content[:place] + value + content[place + len(value) :])
        with pytest.raises(ValueError, match=r"is truncated|is damaged|is not a LAS file|has .* points"):
            read_las(path)


def test_the_sizes_of_layers_are_checked_before_memory_is_allocated(tmp_path):
    path = written.las(tmp_path / "a.laz", SCENE)
    content = bytearray(path.read_bytes())
    with laspy.open(path) as file:
        place = file.header.offset_to_point_data + 8 + file.header.point_format.size + 4
    content[place : place + 4] = struct.pack("<I", 2**32 - 1)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a chunk is damaged"):
        read_las(path)


@pytest.mark.parametrize("name", ["a.las", "a.laz"])
def test_truncated_files_are_refused(tmp_path, name):
    path = written.las(tmp_path / name, SCENE)
    content = path.read_bytes()
    for length in range(0, len(content) - 100, 997):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError):
            read_las(path)
