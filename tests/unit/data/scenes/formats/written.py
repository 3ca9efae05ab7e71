"""One scene, written by the libraries of each format, or by hand as the programs of a format write it."""

import struct
from pathlib import Path

import numpy as np

from dbbd_cli.data.scenes.scene import SceneArrays


def lzf(data: bytes) -> bytes:
    """Pack bytes with LZF: repeats of four bytes or more, and the rest as it is."""
    out, literal, seen, place = bytearray(), bytearray(), {}, 0

    def flush():
        for start in range(0, len(literal), 32):
            piece = literal[start : start + 32]
            out.append(len(piece) - 1)
            out.extend(piece)
        literal.clear()

    while place < len(data):
        key = data[place : place + 4]
        before = seen.get(key)
        seen[key] = place
        back = 0 if before is None else place - before
        if len(key) < 4 or not 0 < back <= 8192:
            literal.append(data[place])
            place += 1
            continue
        length = 4
        while length < 264 and place + length < len(data) and data[place + length] == data[before + length]:
            length += 1
        flush()
        high, low = divmod(back - 1, 256)
        packed = length - 2
        out.extend([(packed << 5 | high), low] if packed < 7 else [7 << 5 | high, packed - 7, low])
        place += length
    flush()
    return bytes(out)


PCD_DATA = ("ascii", "binary", "binary_compressed")


def pcd(path: Path, arrays: SceneArrays, data: str = "binary", height: int = 1) -> Path:
    """Write a file as PCL does: float coordinates, normals, and colors packed into the bits of a float."""
    columns = dict(zip(("x", "y", "z"), arrays.coord.T.astype("<f4"), strict=True))
    if arrays.color is not None:
        red, green, blue = arrays.color.astype("<u4").T
        columns["rgb"] = (red << 16 | green << 8 | blue).view("<f4")
    if arrays.normal is not None:
        names = ("normal_x", "normal_y", "normal_z")
        columns.update(zip(names, arrays.normal.T.astype("<f4"), strict=True))
    columns.update({name: values.astype("<f4") for name, values in arrays.properties.items()})
    if arrays.segment is not None:
        columns["label"] = arrays.segment.astype("<u4")
    columns["_"] = np.zeros((len(arrays.coord), 3), "u1")  # padding
    kinds = {"f": "F", "u": "U"}
    counts = [1 if values.ndim == 1 else values.shape[1] for values in columns.values()]
    count = len(arrays.coord)
    head = "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
    head += f"FIELDS {' '.join(columns)}\nSIZE {' '.join(str(v.itemsize) for v in columns.values())}\n"
    head += f"TYPE {' '.join(kinds[v.dtype.kind] for v in columns.values())}\nCOUNT {' '.join(map(str, counts))}\n"
    head += f"WIDTH {count // height}\nHEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {data}\n"
    if data == "ascii":
        table = np.column_stack([values.astype(object) for values in columns.values()])
        body = "".join(" ".join(map(str, row)) + "\n" for row in table.tolist()).encode()
    elif data == "binary":
        row = np.dtype([(name, v.dtype, v.shape[1:]) for name, v in columns.items()])
        points = np.empty(count, row)
        for name, values in columns.items():
            points[name] = values
        body = points.tobytes()
    else:
        unpacked = b"".join(np.ascontiguousarray(values).tobytes() for values in columns.values())
        packed = lzf(unpacked)
        body = struct.pack("<II", len(packed), len(unpacked)) + packed
    path.write_bytes(head.encode() + body)
    return path


def las(path: Path, arrays: SceneArrays, scale: float = 0.0001) -> Path:
    """Write a file with laspy: 16-bit colors, classes, intensity if there is one, and the rest as extra dimensions."""
    import laspy

    header = laspy.LasHeader(point_format=7, version="1.4")
    header.scales, header.offsets = [scale] * 3, np.floor(arrays.coord.min(axis=0))
    extra = {name: values for name, values in arrays.properties.items() if name != "intensity"}
    if arrays.normal is not None:
        names = ("NormalX", "NormalY", "NormalZ")
        extra.update(zip(names, arrays.normal.T.astype(np.float32), strict=True))
    for name, values in extra.items():
        header.add_extra_dim(laspy.ExtraBytesParams(name=name, type=values.dtype))
    file = laspy.LasData(header)
    file.x, file.y, file.z = arrays.coord.T
    if arrays.color is not None:
        file.red, file.green, file.blue = arrays.color.astype(np.uint16).T * 257
    if arrays.segment is not None:
        file.classification = arrays.segment.astype(np.uint8)
    if "intensity" in arrays.properties:
        file.intensity = arrays.properties["intensity"].astype(np.uint16)
    for name, values in extra.items():
        file[name] = values
    file.write(str(path))
    return path


def e57(path: Path, arrays: SceneArrays, parts: int = 1) -> Path:
    """Write a file with pye57, as several scans with poses of their own."""
    import pye57

    with pye57.E57(str(path), mode="w") as file:
        for index, rows in enumerate(np.array_split(np.arange(len(arrays.coord)), parts)):
            turn, shift = 0.3 * index, np.array([10.0 * index, -3.0, 1.5])
            rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
            coord = (arrays.coord[rows] - shift) @ rotation  # in the coordinates of the scanner
            data = dict(zip(("cartesianX", "cartesianY", "cartesianZ"), coord.T.copy(), strict=True))
            if arrays.color is not None:
                colors = arrays.color[rows].astype(np.uint8).T.copy()
                data.update(zip(("colorRed", "colorGreen", "colorBlue"), colors, strict=True))
            if "intensity" in arrays.properties:
                data["intensity"] = arrays.properties["intensity"][rows].astype(np.float32)
            quaternion = [np.cos(turn / 2), 0, 0, np.sin(turn / 2)]
            file.write_scan_raw(data, rotation=quaternion, translation=shift)
    return path


def text(path: Path, arrays: SceneArrays, separator: str = " ", header: str = "") -> Path:
    """Write a table: coordinates, colors, normals, intensity and labels, as far as the scene has them."""
    columns = [arrays.coord]
    columns += [part for part in (arrays.color, arrays.normal) if part is not None]
    columns += [values[:, None] for values in arrays.properties.values()]
    columns += [arrays.segment[:, None]] if arrays.segment is not None else []
    table = np.column_stack(columns)
    lines = [separator.join(f"{v:.9g}" for v in row) for row in table.tolist()]
    path.write_text(header + "\n".join(lines) + "\n")
    return path


def mesh(path: Path) -> Path:
    """Write a colored box with trimesh."""
    import trimesh

    box = trimesh.creation.box((4, 3, 2))
    box.visual.vertex_colors = np.arange(32).reshape(8, 4).astype(np.uint8) * 8
    if path.suffix == ".gltf":
        content = trimesh.Scene(box).export(file_type="gltf", embed_buffers=True)["model.gltf"]
    else:
        content = box.export(file_type=path.suffix[1:])
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
