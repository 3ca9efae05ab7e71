"""Meshes sampled to points."""

import json
import struct

import numpy as np
import pytest

from dbbd_cli.data.scenes.formats.mesh import MESH_POINTS, MESH_SUFFIXES, read_mesh

trimesh = pytest.importorskip("trimesh")

SIZE = np.array([4.0, 3.0, 2.0])


def box(color=False):
    mesh = trimesh.creation.box(SIZE)
    if color:
        mesh.visual.vertex_colors = np.where(mesh.vertices[:, :1] > 0, [200, 100, 0, 255], [0, 100, 200, 255])
    return mesh


def write(path, mesh):
    content = mesh.export(file_type=path.suffix[1:])
    if isinstance(content, dict):
        content = trimesh.Scene(mesh).export(file_type="gltf", embed_buffers=True)["model.gltf"]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_points_lie_on_the_faces_in_proportion_to_their_area(tmp_path, suffix):
    found = read_mesh(write(tmp_path / f"a{suffix}", box()), 20_000)
    size = SIZE[[0, 2, 1]] if suffix in (".glb", ".gltf") else SIZE  # y points up in glTF
    on_face = np.isclose(np.abs(found.coord), size / 2, atol=1e-6)
    assert len(found.coord) == 20_000
    assert on_face.any(axis=1).all()
    area = np.array([size[1] * size[2], size[0] * size[2], size[0] * size[1]])
    np.testing.assert_allclose(on_face.mean(axis=0), area / area.sum(), atol=0.015)
    unit = found.normal / np.linalg.norm(found.normal, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(unit).max(axis=1), 1, atol=1e-6)
    assert ((unit * found.coord).sum(axis=1) > 0).all()  # outward
    assert found.color is None


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_colors_of_vertices_are_interpolated(tmp_path, suffix):
    found = read_mesh(write(tmp_path / f"a{suffix}", box(color=True)), 5000)
    expected = np.clip(100 + 200 * found.coord[:, 0] / SIZE[0], 0, 200)
    np.testing.assert_allclose(found.color[:, 0], expected, atol=1)
    np.testing.assert_allclose(found.color[:, 1], 100, atol=1)


def test_the_same_mesh_gives_the_same_points(tmp_path):
    first, second = (read_mesh(write(tmp_path / name, box()), 100) for name in ("a.off", "b.off"))
    np.testing.assert_array_equal(first.coord, second.coord)
    other = read_mesh(write(tmp_path / "c.off", trimesh.creation.box(2 * SIZE)), 100)
    assert not np.allclose(other.coord / 2, first.coord)
    assert len(read_mesh(tmp_path / "a.off").coord) == MESH_POINTS


def test_the_parts_of_a_scene_are_placed(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(box())
    scene.add_geometry(box(), transform=trimesh.transformations.translation_matrix([50, 0, 7]))
    found = read_mesh(write(tmp_path / "a.glb", scene), 1000)
    assert (found.coord[:, 0] > 40).mean() == pytest.approx(0.5, abs=0.06)
    assert found.coord[found.coord[:, 0] > 40].mean(axis=0) == pytest.approx([50, -7, 0], abs=0.2)


def test_a_file_without_faces_gives_its_points(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n")
    assert len(read_mesh(tmp_path / "a.obj").coord) == 4


@pytest.mark.parametrize("encoding", ["utf-8", "latin1"])
@pytest.mark.parametrize(
    ("suffix", "before", "after"),
    [
        (".obj", "v ", "# Prüfkörper\nv "),
        (".off", "OFF\n", "OFF\n# Prüfkörper\n"),
        (".stl", "solid ", "solid Prüfkörper"),
    ],
)
def test_text_may_be_in_latin1(tmp_path, suffix, before, after, encoding):
    content = trimesh.exchange.export.export_mesh(
        box(), None, file_type="stl_ascii" if suffix == ".stl" else suffix[1:]
    )
    text = content.replace(before, after, 1)
    assert "ü" in text
    (tmp_path / f"a{suffix}").write_bytes(text.encode(encoding))
    found = read_mesh(tmp_path / f"a{suffix}", 100)
    assert np.isclose(np.abs(found.coord), SIZE / 2).any(axis=1).all()


def test_binary_stl_is_not_taken_for_text(tmp_path):
    path = write(tmp_path / "a.stl", box())
    content = path.read_bytes()
    path.write_bytes("solid Prüfkörper".encode("latin1").ljust(80) + content[80:])
    assert np.isclose(np.abs(read_mesh(path, 100).coord), SIZE / 2).any(axis=1).all()


def test_files_that_are_no_meshes_are_refused(tmp_path):
    for suffix in MESH_SUFFIXES:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"no mesh\n" * 20)
        with pytest.raises(ValueError):
            read_mesh(path)
    (tmp_path / "a.off").write_text("OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n")
    with pytest.raises(ValueError, match="no area"):
        read_mesh(tmp_path / "a.off")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree["accessors"][0].update(count=10**12), "is damaged"),
        (lambda tree: tree["accessors"][0].pop("bufferView"), "is damaged"),
        (lambda tree: tree["buffers"][0].update(uri="../secret.bin"), r"in another file, \.\./secret\.bin"),
        (lambda tree: tree.update(extensionsRequired=["KHR_draco_mesh_compression"]), "is compressed"),
    ],
)
def test_hostile_gltf_is_refused(tmp_path, change, message):
    content = write(tmp_path / "a.glb", box()).read_bytes()
    length = struct.unpack("<I", content[12:16])[0]
    tree = json.loads(content[20 : 20 + length])
    change(tree)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + length :]
    head = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A)
    (tmp_path / "a.glb").write_bytes(head + text + rest)
    with pytest.raises(ValueError, match=message):
        read_mesh(tmp_path / "a.glb")
