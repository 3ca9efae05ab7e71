"""The names that programs give to coordinates, normals, colors and labels are recognized."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.data.scenes.formats.names import (
    ARRAY_NAMES,
    COLOR,
    COLUMN_NAMES,
    NORMAL,
    SEGMENT,
    find_arrays,
    find_columns,
    simplified,
)
from dbbd_cli.data.scenes.reader import read_scene

FORMATS = Path(__file__).parents[5] / "docs" / "formats.md"
COORD = np.random.default_rng(0).random((6, 3))


@pytest.mark.parametrize(
    ("name", "simple"),
    [
        ("x", "x"),
        ("scalar_Label", "label"),
        ("scalar_scalar_label", "label"),
        ("Normal_X", "normalx"),
        ("normal.x", "normalx"),
        ("Semantic Class", "semanticclass"),
        ("f_dc_0", "fdc0"),
        ("scalar", "scalar"),
        ("scalar_", "scalar"),
        ("Größe", "größe"),
        ("Влажность_1", "влажность1"),
        ("scalar_湿度", "湿度"),
        ("?!", "?!"),
        ("___", "___"),
    ],
)
def test_names_are_compared_without_case_prefix_and_separators(name: str, simple: str) -> None:
    assert simplified(name) == simple


def written(path: Path, columns: dict[str, np.ndarray], kind: str = "double") -> Path:
    head = ["ply", "format ascii 1.0", f"element vertex {len(COORD)}", *(f"property {kind} {name}" for name in columns)]
    rows = [" ".join(map(str, row)) for row in np.stack(list(columns.values()), axis=1).tolist()]
    path.write_text("\n".join([*head, "end_header", *rows, ""]))
    return path


AXES = {f"{axis}": COORD[:, index] for index, axis in enumerate("xyz")}


@pytest.mark.parametrize(
    "names",
    [
        ("nx", "ny", "nz"),
        ("Nx", "Ny", "Nz"),
        ("NX", "NY", "NZ"),
        ("normalx", "normaly", "normalz"),  # PDAL
        ("NormalX", "NormalY", "NormalZ"),
        ("normal_x", "normal_y", "normal_z"),
        ("scalar_nx", "scalar_ny", "scalar_nz"),  # CloudCompare
        ("scalar_NormalX", "scalar_NormalY", "scalar_NormalZ"),
        ("n_x", "n_y", "n_z"),
    ],
)
def test_normals_are_known_by_the_names_of_many_programs(tmp_path: Path, names: tuple[str, ...]) -> None:
    normals = {name: np.full(6, value) for name, value in zip(names, (0.0, 0.6, 0.8), strict=True)}
    scene = read_scene(written(tmp_path / "a.ply", {**AXES, **normals}))
    assert scene.normal is not None
    np.testing.assert_allclose(scene.normal, [[0, 0.6, 0.8]] * 6, atol=1e-6)


@pytest.mark.parametrize(
    "names",
    [
        ("red", "green", "blue"),
        ("Red", "Green", "Blue"),
        ("r", "g", "b"),
        ("R", "G", "B"),
        ("diffuse_red", "diffuse_green", "diffuse_blue"),  # MeshLab
        ("scalar_R", "scalar_G", "scalar_B"),
        ("scalar_Red", "scalar_Green", "scalar_Blue"),
        ("vertex_color_r", "vertex_color_g", "vertex_color_b"),
    ],
)
def test_colors_are_known_by_the_names_of_many_programs(tmp_path: Path, names: tuple[str, ...]) -> None:
    colors = {name: np.full(6, value) for name, value in zip(names, (0.0, 51.0, 255.0), strict=True)}
    scene = read_scene(written(tmp_path / "a.ply", {**AXES, **colors}))
    assert scene.color is not None
    np.testing.assert_allclose(scene.color, [[0, 0.2, 1]] * 6, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        *("label", "Label", "scalar_Label", "scalar_scalar_label", "labels", "class", "Classification"),
        *("scalar_Classification", "scalar_classification", "segment", "segment20", "semantic", "Semantic_Label"),
        *("category", "class_id", "sem_class", "gt_label"),
    ],
)
def test_labels_are_known_by_the_names_of_many_programs(tmp_path: Path, name: str) -> None:
    labels = np.array([0, 1, 2, 2, 1, 0])
    scene = read_scene(written(tmp_path / "a.ply", {**AXES, name: labels}))
    assert scene.segment is not None
    assert scene.segment.tolist() == labels.tolist()
    np.savez(tmp_path / "a.npz", **{"Coords": COORD, name: labels})  # type: ignore[arg-type]
    scene = read_scene(tmp_path / "a.npz")
    assert scene.segment is not None
    assert scene.segment.tolist() == labels.tolist()


def test_the_color_of_a_gaussian_splat_is_that_of_its_first_harmonic(tmp_path: Path) -> None:
    rest = {"nx": np.zeros(6), "ny": np.zeros(6), "nz": np.zeros(6), "opacity": np.ones(6), "f_rest_0": np.ones(6)}
    harmonics = {f"f_dc_{index}": np.full(6, value) for index, value in enumerate((0.0, 1.0, -9.0))}
    scene = read_scene(written(tmp_path / "a.ply", {**AXES, **rest, **harmonics}))
    assert scene.normal is None
    assert scene.color is not None
    np.testing.assert_allclose(scene.color, [[0.5, 0.5 + 0.28209479177387814, 0]] * 6, atol=1e-6)
    both = {**harmonics, **{name: np.full(6, 255.0) for name in ("red", "green", "blue")}}
    scene = read_scene(written(tmp_path / "a.ply", {**AXES, **both}))
    assert scene.color is not None
    assert scene.color.min() == 1


def test_the_first_of_several_names_counts() -> None:
    assert find_columns(["X", "y", "z", "scalar_X", "red", "r", "green", "g", "label", "classification"]) == {
        "coord": ("X", "y", "z"),
        SEGMENT: ("label",),
    }
    assert find_arrays(["points", "xyz", "Normals", "rgb", "classification", "label"]) == {
        "coord": "xyz",
        NORMAL: "Normals",
        COLOR: "rgb",
        SEGMENT: "label",
    }


def test_the_documentation_has_every_name_in_the_same_order() -> None:
    rows = [line.split("|") for line in FORMATS.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    table = {row[1].strip(): [re.findall("`([^`]+)`", cell) for cell in row[2:4]] for row in rows if len(row) == 5}
    for part, title in (("coord", "coordinates"), (NORMAL, "normals"), (COLOR, "colors"), (SEGMENT, "labels")):
        columns, arrays = ([*map(simplified, names)] for names in table[title])
        known = [name for names in COLUMN_NAMES[part] for name in names]
        if part == COLOR:  # those with another prefix are described in words
            known = [name for name in known if not name.startswith(("color", "colour", "vertex"))]
            columns = [name for name in columns if name not in ("color", "colour", "vertex", "vertexcolor")]
        assert columns == known
        assert part == SEGMENT or arrays == list(ARRAY_NAMES[part])


def test_columns_may_have_any_order_and_case(tmp_path):
    text = "ply\nformat ascii 1.0\nelement vertex 4\n" + "".join(
        f"property {p}\n"
        for p in ("float Z", "float Y", "float X", "float scalar_Label", "float r", "float g", "float b")
    )
    rows = "".join(f"{i} 0 {10 * i} {i - 1} 0.5 {i / 4} 1\n" for i in range(4))
    path = tmp_path / "a.ply"
    path.write_text(text + "end_header\n" + rows)
    scene = read_scene(path)
    assert (scene.coord + scene.shift)[:, 0].tolist() == [0, 10, 20, 30]
    assert scene.segment.tolist() == [-1, 0, 1, 2]
    assert scene.color[:, 1].tolist() == [0, 0.25, 0.5, 0.75]
