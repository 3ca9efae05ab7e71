"""PLY files of every kind are read exactly; damaged or hostile ones are refused with a reason, in little memory."""

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest

from dbbd_cli.data.scenes.formats.ply import read_vertices

ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
PLY_NAMES = {
    "i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint",
    "f4": "float", "f8": "double",
}  # fmt: skip
POINTS = {
    "x": np.array([0.5, -1.25, 1e3, 2.0], "f4"),
    "y": np.array([1e-3, 12345678.25, -4.0, 3.0], "f8"),
    "z": np.array([1, 2, -3, 4], "i2"),
    "red": np.array([0, 255, 7, 9], "u1"),
    "level": np.array([-128, 127, 0, 1], "i1"),
    "id": np.array([0, 2**32 - 1, 5, 6], "u4"),
    "step": np.array([0, 65535, 5, 6], "u2"),
    "label": np.array([-(2**31), 3, 2, 1], "i4"),
}


def header(file_format, elements, newline="\n"):
    lines = ["ply", f"format {file_format} 1.0", "comment made by a test", "obj_info nothing"]
    for name, count, properties in elements:
        lines += [f"element {name} {count}", *(f"property {text}" for text in properties)]
    return (newline.join([*lines, "end_header"]) + newline).encode()


def properties_of(points):
    return [f"{PLY_NAMES[column.dtype.str[1:]]} {name}" for name, column in points.items()]


def vertices(points, file_format):
    count = len(next(iter(points.values())))
    if file_format == "ascii":
        return b"".join(" ".join(repr(c[i].item()) for c in points.values()).encode() + b"\n" for i in range(count))
    table = np.empty(count, [(name, c.dtype.newbyteorder(ORDERS[file_format])) for name, c in points.items()])
    for name, column in points.items():
        table[name] = column
    return table.tobytes()


FACES = ["list uchar int vertex_indices", "uchar flag", "list uint float texture"]


def faces(file_format, count=3):
    if file_format == "ascii":
        return b"3 0 1 2 9 2 0.5 0.5\n\n" * count
    order = ORDERS[file_format]
    return struct.pack(order + "B3iBI2f", 3, 0, 1, 2, 9, 2, 0.5, 0.5) * count


def save(path, *parts):
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("file_format", ["ascii", *ORDERS])
@pytest.mark.parametrize("around", ["alone", "lists before", "lists after", "fixed before"])
def test_properties_of_all_types_are_read_exactly(tmp_path, file_format, around, newline):
    vertex = ("vertex", 4, properties_of(POINTS))
    body = vertices(POINTS, file_format)
    camera = b"1.5 2\n" if file_format == "ascii" else struct.pack(ORDERS[file_format] + "dB", 1.5, 2)
    elements, data = {
        "alone": ([vertex], body),
        "lists before": ([("face", 3, FACES), vertex], faces(file_format) + body),
        "lists after": ([vertex, ("face", 3, FACES)], body + faces(file_format)),
        "fixed before": ([("empty", 9, []), ("camera", 1, ["double a", "uchar b"]), vertex], camera + body),
    }[around]
    if file_format == "ascii":
        data = data.replace(b"\n", newline.encode())
    found = read_vertices(save(tmp_path / "a.ply", header(file_format, elements, newline), data), 100)
    assert list(found) == list(POINTS) or set(found) == set(POINTS)
    for name, column in POINTS.items():
        np.testing.assert_array_equal(found[name], column)
        assert found[name].dtype.isnative
        if column.dtype.kind != "f":
            assert found[name].dtype == column.dtype


def test_numbers_that_do_not_fit_their_declared_type_are_kept(tmp_path):
    data = header("ascii", [("vertex", 2, ["uchar red", "int label"])]) + b"300 1.5\n0 2\n"
    found = read_vertices(save(tmp_path / "a.ply", data), 10)
    assert found["red"].tolist() == [300, 0]
    assert found["label"].tolist() == [1.5, 2]


@pytest.mark.parametrize(("kind", "largest"), [("int64", 2**63 - 1), ("uint64", 2**64 - 1), ("uint", 2**32 - 1)])
def test_the_largest_numbers_of_a_type_are_read_from_text(tmp_path, kind, largest):
    data = header("ascii", [("vertex", 2, [f"{kind} label"])]) + f"{largest}\n1\n".encode()
    found = read_vertices(save(tmp_path / "a.ply", data), 10)
    assert found["label"].astype(np.float64).tolist() == [float(largest), 1]


@pytest.mark.parametrize("text", ["nan", "-nan", "-nan(ind)", "nan(snan)", "1.#QNAN", "-1.#IND", "-1.#IND00", "1.#INF"])
@pytest.mark.parametrize("more", [[], ["list uchar int a"]])
def test_nan_and_infinity_are_read_in_every_spelling(tmp_path, text, more):
    data = header("ascii", [("vertex", 2, ["float nx", "float x", *more])])
    rows = f"{text} 1{' 1 7' * len(more)}\n0.5 2{' 0' * len(more)}\n".encode()
    found = read_vertices(save(tmp_path / "a.ply", data, rows), 10)
    np.testing.assert_array_equal(found["nx"], [np.nan, 0.5])
    assert found["x"].tolist() == [1, 2]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("comments", [["comment " + "x" * 10**5], ["obj_info " + "x" * 5000] * 5, ["comment y"] * 5000])
def test_comments_may_be_long_and_many(tmp_path, newline, comments):
    start, end = header("ascii", [("vertex", 1, ["float x"])]).decode().split("comment made by a test\n")
    data = (start + "\n".join(comments) + "\n" + end + "5\n").replace("\n", newline)
    assert read_vertices(save(tmp_path / "a.ply", data.encode()), 10)["x"].tolist() == [5]


def test_the_first_of_two_equal_names_counts(tmp_path):
    data = header("ascii", [("vertex", 1, ["float x", "float X"])]) + b"1 2\n"
    assert read_vertices(save(tmp_path / "a.ply", data), 10)["x"].tolist() == [1]


XYZ = ["float x", "float y", "float z"]
GOOD = header("binary_little_endian", [("vertex", 5, XYZ)])
REFUSED = {
    "nothing": (b"", "is not a PLY"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a PLY"),
    "no end of the header": (GOOD[:-11], "header is truncated"),
    "endless line": (b"ply\n" + b"comment " + b"x" * 10**6, "header is truncated"),
    "endless header": (b"ply\nformat ascii 1.0\n" + b"element a 1\n" * 5000, "header is truncated"),
    "endless comments": (b"ply\n" + b"comment\n" * 10**6 + b"end_header\n", "longer than 4,194,304 bytes"),
    "endless comment, CR": (b"ply\rcomment " + b"x" * 2**25, "header is truncated"),
    "no format": (b"ply\nend_header\n", "does not name a format"),
    "unknown format": (b"ply\nformat binary_mixed 1.0\nend_header\n", "invalid line"),
    "unknown type": (header("ascii", [("vertex", 1, ["quad x"])]), "invalid line: property quad x"),
    "no count": (b"ply\nformat ascii 1.0\nelement vertex\nend_header\n", "invalid line"),
    "negative count": (header("ascii", [("vertex", -5, XYZ)]), "invalid line: element vertex -5"),
    "huge text as a count": (header("ascii", [("vertex", "9" * 3000, XYZ)]), "invalid line"),
    "property of nothing": (b"ply\nformat ascii 1.0\nproperty float x\nend_header\n", "invalid line"),
    "10^12 points": (header("binary_little_endian", [("vertex", 10**12, XYZ)]), "declares 1,000,000,000,000 points"),
    "10^12 points, ASCII": (header("ascii", [("vertex", 10**12, XYZ)]), "declares 1,000,000,000,000 points"),
    "10^6 points": (header("binary_little_endian", [("vertex", 10**6, XYZ)]) + bytes(24), "is truncated: 1,000,000"),
    "10^6 points, ASCII": (header("ascii", [("vertex", 10**6, XYZ)]) + b"0 0 0\n" * 9, "is truncated: it is too small"),
    "no vertex": (header("ascii", [("face", 0, ["list uchar int a"])]), "no element vertex"),
    "vertex without properties": (header("ascii", [("vertex", 10**6, [])]), "no numeric properties"),
    "nothing but lists": (header("ascii", [("vertex", 3, ["list uchar int a"])]), "no numeric properties"),
    "a property without a name": (header("ascii", [("vertex", 3, ["float"])]), "invalid line: property float"),
    "a list without a name": (header("ascii", [("vertex", 3, ["list uchar int"])]), "invalid line: property list"),
    "lists of points cut short": (
        header("binary_little_endian", [("vertex", 3, [*XYZ, "list uchar int a"])])
        + (bytes(12) + b"\2" + bytes(8)) * 2,
        "truncated in its element vertex",
    ),
    "a list of points that is too long": (
        header("binary_big_endian", [("vertex", 3, [*XYZ, "list uint int a"])]) + (bytes(12) + b"\xff\xff\xff\xff") * 9,
        "truncated in its element vertex",
    ),
    "a list of points of negative length": (
        header("binary_big_endian", [("vertex", 3, ["list char int a", *XYZ])]) + b"\xfe" * 100,
        "negative length in its element vertex",
    ),
    "10^7 points with lists": (
        header("binary_big_endian", [("vertex", 10**7, [*XYZ, "list uint64 int a"])]) + bytes(10**6),
        "truncated in its element vertex",
    ),
    "10^7 points with ten lists": (
        header("binary_big_endian", [("vertex", 10**7, [*XYZ, *(f"list uchar int l{n}" for n in range(10))])]),
        "more than 40,000,000 lists in or before its points",
    ),
    "lists cut short, ASCII": (
        header("ascii", [("vertex", 3, [*XYZ, "list uchar int a"])]) + b"0.5 0.5 0.5 1 10\n" * 2,
        "2 of the 3 points",
    ),
    "a list that is shorter than it says, ASCII": (
        header("ascii", [("vertex", 2, [*XYZ, "list uchar int a"])]) + b"0 0 0 1 10\n0 0 0 3 10\n",
        "does not contain the numbers and lists",
    ),
    "a list that is longer than it says, ASCII": (
        header("ascii", [("vertex", 2, [*XYZ, "list uchar int a"])]) + b"0 0 0 1 10\n0 0 0 1 10 11\n",
        "does not contain the numbers and lists",
    ),
    "a list of negative length, ASCII": (
        header("ascii", [("vertex", 2, [*XYZ, "list int int a"])]) + b"0 0 0 1 10\n0 0 0 -1 1\n",
        "does not contain the numbers and lists",
    ),
    "points cut short after a list": (
        header("binary_little_endian", [("vertex", 1, ["list uchar char a", "double x"])]) + b"\5" + bytes(8),
        "truncated in its element vertex",
    ),
    "a list of half a number, ASCII": (
        header("ascii", [("vertex", 2, [*XYZ, "list uchar int a"])]) + b"0 0 0 1 10\n0 0 0 1.5 1\n",
        "does not contain the numbers and lists",
    ),
    "list of a fraction": (header("ascii", [("face", 3, ["list float int a"])]), "not an integer"),
    "10^12 faces before": (
        header("binary_little_endian", [("face", 10**12, FACES), ("vertex", 5, XYZ)]) + bytes(100_000),
        "more than 40,000,000 lists in or before its points",
    ),
    "10^12 faces before, ASCII": (
        header("ascii", [("face", 10**12, FACES), ("vertex", 5, XYZ)]) + b"3 0 1 2\n" * 1000,
        "more than 1,000,000 lines before its points",
    ),
    "200,000 faces before": (
        header("binary_little_endian", [("face", 200_000, FACES), ("vertex", 5, XYZ)]) + bytes(100_000),
        "truncated in its element face",
    ),
    "200,000 faces before, ASCII": (
        header("ascii", [("face", 200_000, FACES), ("vertex", 5, XYZ)]) + b"3 0 1 2\n" * 1000,
        "truncated in its element face",
    ),
    "blank lines before": (
        header("ascii", [("face", 9, FACES), ("vertex", 5, XYZ)]) + b"\n" * 20_000,
        "has 10,000 more blank lines than others",
    ),
    "a line without end before": (
        header("ascii", [("face", 9, FACES), ("vertex", 5, XYZ)]) + b"1 " * 600_000,
        "a line that is too long",
    ),
    "blank lines": (header("ascii", [("vertex", 5, XYZ)]) + b"\n" * 20_000, "10,000 more blank lines"),
    "a hole for a line": (
        header("ascii", [("vertex", 5, XYZ)]) + b"1 2 3\n" + bytes(1_500_000),
        "does not contain 3 numbers",
    ),
    "10^18 bytes before": (
        header("binary_big_endian", [("camera", 10**18, ["double a"]), ("vertex", 5, XYZ)]) + bytes(100),
        "is truncated: 5 points need 60 bytes, but only 0 are left",
    ),
    "negative length": (
        header("binary_big_endian", [("face", 1, ["list int int a"]), ("vertex", 5, XYZ)]) + b"\xff" * 100,
        "negative length",
    ),
    "long list": (
        header("binary_big_endian", [("face", 1, ["list uint double a"]), ("vertex", 5, XYZ)]) + b"\xff" * 100,
        "truncated in its element face",
    ),
    "cut short": (GOOD + bytes(59), "is truncated: 5 points need 60 bytes, but only 59 are left"),
    "cut short, ASCII": (header("ascii", [("vertex", 3, XYZ)]) + b"10.0 20.0 30.0\n" * 2, "2 of the 3 points"),
    "text in ASCII": (header("ascii", [("vertex", 2, XYZ)]) + b"1 2 3\n1 two 3\n", "does not contain 3 numbers"),
    "lines of two lengths": (header("ascii", [("vertex", 2, XYZ)]) + b"1 2 3\n1 2 3 4\n", "does not contain 3 numbers"),
    "short lines": (header("ascii", [("vertex", 2, XYZ)]) + b"100 200\n100 200\n", "has 2 numbers in a line"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_files_are_refused_with_a_reason(tmp_path, name):
    data, reason = REFUSED[name]
    path = save(tmp_path / "a.ply", data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=reason.replace("^", r"\^")):
            read_vertices(path, 20_000_000)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


LISTS = ["list uchar int view_indices", "uchar flag", "list int double weights"]
LENGTHS = {
    "all alike": lambda row: (3, 1),
    "none": lambda row: (0, 0),
    "all different": lambda row: (row * 7 % 5, row % 3),
    "in stretches": lambda row: (2 + row // 60, row // 100 % 2),
}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("file_format", ["ascii", *ORDERS])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_lists_in_points_are_skipped(tmp_path, file_format, place, lengths):
    count = 300
    coord = np.arange(3.0 * count).reshape(count, 3)
    properties = [f"float {axis}" for axis in "xyz"]
    properties[place:place] = LISTS
    rows = []
    for row in range(count):
        first, second = LENGTHS[lengths](row)
        kinds, values = list("fff"), coord[row].tolist()
        kinds[place:place] = [f"B{first}iBi{second}d"]
        values[place:place] = [first, *range(first), 7, second, *[0.5] * second]
        if file_format == "ascii":
            rows.append(" ".join(map(str, values)).encode() + b"\n")
        else:
            rows.append(struct.pack(ORDERS[file_format] + "".join(kinds), *values))
    data = header(file_format, [("vertex", count, properties)])
    found = read_vertices(save(tmp_path / "a.ply", data, *rows), count)
    np.testing.assert_array_equal(np.stack([found[axis] for axis in "xyz"], axis=1), coord)
    assert set(found) == {"x", "y", "z", "flag"}
    assert (found["flag"] == 7).all()
    # The same rows in an element before the points.
    data = header(file_format, [("other", count, properties), ("vertex", 4, properties_of(POINTS))])
    found = read_vertices(save(tmp_path / "a.ply", data, *rows, vertices(POINTS, file_format)), count)
    np.testing.assert_array_equal(found["y"], POINTS["y"])


def test_a_declared_list_may_have_no_values_in_ascii(tmp_path):
    """Blender 2.7 declares the list of the faces for the points if there are no faces."""
    properties = [*properties_of(POINTS), "list uchar uint vertex_indices"]
    save(tmp_path / "a.ply", header("ascii", [("vertex", 4, properties)]), vertices(POINTS, "ascii"))
    found = read_vertices(tmp_path / "a.ply", 100)
    assert found.keys() == POINTS.keys()
    for name, column in POINTS.items():
        np.testing.assert_array_equal(found[name], column)


def test_wide_rows_with_lists_take_little_extra_memory(tmp_path):
    count, more = 20_000, [f"double p{i}" for i in range(100)]
    data = header("binary_little_endian", [("vertex", count, ["float x", *more, "list uchar int a"])])
    path = save(tmp_path / "a.ply", data, bytes(count * 805))
    tracemalloc.start()
    try:
        assert len(read_vertices(path, count)["p99"]) == count
        assert tracemalloc.get_traced_memory()[1] < 4 * count * 805
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_names_may_have_spaces_and_comments_may_be_long(tmp_path, newline):
    lines = ["ply", "comment " + "x" * 20_000, "format ascii 1.0", "element Vertex 1"]
    lines += [
        "property float X",
        "property double scalar_Scalar field #2",
        "property list uchar int a list",
        "end_header",
    ]
    path = save(tmp_path / "a.ply", newline.join([*lines, "1 2 0", ""]).encode())
    assert read_vertices(path, 10) == {"x": [1], "scalar_scalar field #2": [2]}


def test_binary_points_may_start_with_a_line_ending_after_a_header_with_carriage_returns(tmp_path):
    for first in (b"\n", b"\r"):
        data = header("binary_little_endian", [("vertex", 1, ["uchar x", "uchar y"])], "\r") + first + b"\7"
        found = read_vertices(save(tmp_path / "a.ply", data), 10)
        assert (found["x"].tolist(), found["y"].tolist()) == ([first[0]], [7])


def test_a_file_without_points_has_empty_columns(tmp_path):
    path = tmp_path / "empty.ply"
    for file_format in ("ascii", *ORDERS):
        save(path, header(file_format, [("vertex", 0, ["float x", "float y"])]))
        assert {name: len(column) for name, column in read_vertices(path, 10).items()} == {"x": 0, "y": 0}


@pytest.mark.parametrize(
    "data",
    [
        b"ply\nformat ascii 1.0\n\x1b[31m\x07 \xe2\x80\xa8\n",
        header("ascii", [("\x1b[2J" * 900, 1, ["char a"]), ("vertex", 4, ["float x"])]),
        header("ascii", [("vertex", 4, ["float x"])]) + b"1\n2\n\x1b" + b"x" * 9000 + b"\n4\n",
    ],
    ids=["line", "element", "number"],
)
def test_messages_are_short_and_printable(tmp_path, data):
    path = tmp_path / "odd.ply"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        read_vertices(path, 10)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("file_format", ["ascii", *ORDERS])
def test_damaged_files_raise_only_value_errors(tmp_path, file_format):
    head = header(file_format, [("face", 3, FACES), ("vertex", 4, properties_of(POINTS))])
    good = head + faces(file_format) + vertices(POINTS, file_format)
    rng = np.random.default_rng(0)
    path = tmp_path / "a.ply"
    for _ in range(200):
        data = bytearray(good)
        for place in rng.integers(len(data), size=int(rng.integers(1, 4))):
            data[place] = rng.integers(256)
        path.write_bytes(data[: int(rng.integers(len(data) // 2, len(data) + 1))])
        with contextlib.suppress(ValueError):
            read_vertices(path, 100)
