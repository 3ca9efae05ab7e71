"""Tables of points with and without a header."""

import time

import numpy as np
import pytest

from dbbd_cli.data.scenes.formats import text
from dbbd_cli.data.scenes.formats.text import read_text, text_blocks
from dbbd_cli.data.scenes.scene import SceneArrays
from unit.data.scenes.formats import written

RNG = np.random.default_rng(0)
N = 60
COORD = RNG.normal(size=(N, 3))
COLOR = RNG.integers(0, 256, (N, 3))
NORMAL = RNG.normal(size=(N, 3))
NORMAL /= np.linalg.norm(NORMAL, axis=1, keepdims=True)
LABEL = RNG.integers(0, 5, N)
INTENSITY = RNG.integers(-2000, 2000, N)


def table(path, *columns, separator=" ", head=""):
    rows = np.column_stack(columns).tolist()
    path.write_text(head + "".join(separator.join(f"{v:.9g}" for v in row) + "\n" for row in rows))
    return read_text(path)


@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [
        ("a.xyz", [COORD], {}),
        ("a.xyz", [COORD, COLOR], {"color": COLOR}),
        ("a.txt", [COORD, COLOR, LABEL], {"color": COLOR, "segment": LABEL}),
        ("a.xyz", [COORD, NORMAL], {"normal": NORMAL}),
        ("a.xyz", [COORD, NORMAL, LABEL], {"normal": NORMAL, "segment": LABEL}),
        ("a.asc", [COORD, COLOR, NORMAL], {"color": COLOR, "normal": NORMAL}),
        ("a.asc", [COORD, NORMAL, COLOR, LABEL], {"color": COLOR, "normal": NORMAL, "segment": LABEL}),
        ("a.txt", [COORD, INTENSITY, COLOR], {"intensity": INTENSITY, "color": COLOR}),
        ("a.pts", [COORD, np.abs(INTENSITY) % 256, COLOR], {"intensity": np.abs(INTENSITY) % 256, "color": COLOR}),
        ("a.pts", [COORD, INTENSITY], {"intensity": INTENSITY}),
        ("a.xyz", [COORD, LABEL], {"column4": LABEL}),
        ("a.xyz", [COORD, INTENSITY, LABEL], {"column4": INTENSITY, "label": LABEL}),
        ("a.xyz", [COORD, COLOR / 255], {f"column{4 + i}": (COLOR / 255)[:, i] for i in range(3)}),
        ("a.xyzrgb", [COORD, COLOR / 255], {"color": COLOR / 255}),
        ("a.xyzn", [COORD, 3 * NORMAL], {"normal": 3 * NORMAL}),
    ],
)
def test_columns_without_names_are_recognized_by_their_values(tmp_path, name, columns, expected):
    found = table(tmp_path / name, *columns)
    parts = {name: getattr(found, name) for name in ("normal", "color", "segment")}
    parts = {name: part for name, part in parts.items() if part is not None} | dict(found.properties)
    if "label" in expected:
        expected = {**expected, "segment": expected["label"]}
        expected.pop("label")
    assert parts.keys() == expected.keys()
    for part, values in expected.items():
        np.testing.assert_allclose(np.squeeze(parts[part]), values, atol=1e-8)
    np.testing.assert_allclose(found.coord, COORD, atol=1e-8)


@pytest.mark.parametrize(
    ("separator", "head"),
    [
        (" ", "x y z class\n"),
        ("\t", "# made by a program\n# x\ty\tz\tclass\n"),
        (",", '"X","Y","Z","Class"\n'),
        (";", "//X;Y;Z;Class\n60\n"),
        (", ", "\ufeffx, y, z, class\n"),
    ],
)
def test_columns_with_names(tmp_path, separator, head):
    found = table(tmp_path / "a.csv", COORD, LABEL, separator=separator, head=head)
    np.testing.assert_allclose(found.coord, COORD, atol=1e-8)
    np.testing.assert_array_equal(found.segment[:, 0], LABEL)


def test_columns_may_have_any_order_and_decimal_commas(tmp_path):
    rows = np.column_stack([LABEL, COORD[:, ::-1]]).tolist()
    lines = "\r\n".join(";".join(f"{v:.9g}" for v in row) for row in rows).replace(".", ",")
    (tmp_path / "a.csv").write_bytes(f"Label;Z;Y;X\r\n{lines}".encode())
    found = read_text(tmp_path / "a.csv")
    np.testing.assert_allclose(found.coord, COORD, atol=1e-8)
    np.testing.assert_array_equal(found.segment[:, 0], LABEL)


@pytest.mark.parametrize("separator", [" ", "\t", ";", "  "])
def test_decimal_commas_without_names(tmp_path, separator):
    rows = np.column_stack([COORD, COLOR, LABEL, np.full(N, np.nan)]).tolist()
    lines = "\n".join(separator.join(f"{v:.9g}" for v in row) for row in rows)
    (tmp_path / "a.txt").write_text(lines.replace(".", ","))
    found = read_text(tmp_path / "a.txt")
    np.testing.assert_allclose(found.coord, COORD, atol=1e-8)
    np.testing.assert_array_equal(found.color, COLOR)
    np.testing.assert_array_equal(found.properties["column7"], LABEL)


@pytest.mark.parametrize("row", ["1,2,3", "1, 2, 3", "1 ,2 ,3", "1,2 3", "1,2,3 4,5,6", "1.5,2 3.5,4"])
def test_other_commas_separate_numbers(tmp_path, row):
    (tmp_path / "a.txt").write_text(4 * f"{row}\n")
    found = read_text(tmp_path / "a.txt")
    expected = [float(value) for value in row.replace(",", " ").split()]
    np.testing.assert_array_equal(found.coord[0], expected[:3])


def test_counts_comments_and_blank_lines_are_skipped(tmp_path):
    path = tmp_path / "a.pts"
    path.write_text("2\n0 0 0 5\n1 0 0 6\n\n# the second scan\n2\n0 1 0 7\n0 0 1 -nan(ind)\n")
    found = read_text(path)
    np.testing.assert_array_equal(found.coord, [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(found.properties["intensity"], [5, 6, 7, np.nan])


def test_blocks_are_cut_between_lines(tmp_path, monkeypatch):
    scene = SceneArrays(COORD, NORMAL, COLOR)
    path = written.text(tmp_path / "a.xyz", scene)
    whole = read_text(path)
    monkeypatch.setattr(text, "_BLOCK_BYTES", 200)
    blocks = list(text_blocks(path))
    assert len(blocks) > 10
    np.testing.assert_array_equal(np.concatenate([block.coord for block in blocks]), whole.coord)
    np.testing.assert_array_equal(np.concatenate([block.color for block in blocks]), whole.color)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 0 0\n1 0 0\n0 1 zero\n0 0 1\n", "its line 3 does not contain 3 numbers: 0 1 zero"),
        ("x,y,z\n0,0,0\n1,0\n", "its line 3 does not contain 3 numbers: 1 0"),
        ("0 0\n1 0\n", "has 2 numbers in a line"),
        ("a b c\n0 0 0\n", "no x, y and z, only a, b, c"),
        ("x y z label\n0 0 0\n", "names 4 columns in its header, but has 3 numbers"),
        ("Dear reader,\nthese are notes.\n", "is not a table of numbers: it contains the line"),
        ("# only a comment\n", "has no points"),
        ("0 0 0\n" + "\0" * 100_000, "has a line of more than 65,536 bytes|its line 2"),
        ("x" * 100_000, "a line of more than"),
    ],
)
def test_other_texts_are_refused(tmp_path, content, message):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "a.txt")


def test_a_large_table_is_read_in_seconds(tmp_path):
    row = "12.345 -3.25 1.5 200 100 50 7\n"
    (tmp_path / "a.xyz").write_text(row.replace("7", "8") * 4 + row * 300_000)
    start = time.perf_counter()
    found = read_text(tmp_path / "a.xyz")
    assert len(found.coord) == 300_004
    assert time.perf_counter() - start < 6  # it takes 0.3 s
