"""One small scene in every format, and a check of how unreadable files are refused."""

import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.scenes.reader import read_scene

RNG = np.random.default_rng(0)
N = 12
COORD = RNG.normal(size=(N, 3)) * [4, 3, 1]
NORMAL = RNG.normal(size=(N, 3))
NORMAL /= np.linalg.norm(NORMAL, axis=1, keepdims=True)
COLOR = RNG.integers(0, 256, (N, 3)).astype(np.uint8)
SEGMENT = RNG.integers(-1, 20, N)
TREE = {"indices": np.arange(N), "center_idx": 3, "level": 0, "children": []}


def write_ply(path, arrays, kinds=None):
    columns = [arrays["coord"], arrays["normal"], arrays["color"], arrays["segment"][:, None]]
    names = ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue", "label"]
    kinds = kinds or ["double"] * 6 + ["uchar"] * 3 + ["double"]
    types = {"double": "<f8", "uchar": "u1", "float": "<f4", "int": "<i4"}
    table = np.empty(len(columns[0]), [(n, types[k]) for n, k in zip(names, kinds, strict=True)])
    for name, column in zip(names, np.concatenate([c.astype("f8") for c in columns], axis=1).T, strict=True):
        table[name] = column
    properties = "".join(f"property {k} {n}\n" for n, k in zip(names, kinds, strict=True))
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(table)}\n{properties}end_header\n"
    path.write_bytes(head.encode() + table.tobytes())


def write(path, kind, **changes):
    """Write the scene in one format; `changes` replace arrays, None leaves one out."""
    arrays = {"coord": COORD, "normal": NORMAL, "color": COLOR, "segment": SEGMENT, **changes}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    if kind == "folder":
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{'segment20' if name == 'segment' else name}.npy", array)
        return path
    path = path.with_suffix(f".{kind}")
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "ply":
        write_ply(path, arrays)
    else:
        seed_names = {"coord": "coords", "normal": "normals", "color": "colors", "segment": "labels"}
        content = {seed_names[name]: torch.tensor(array) for name, array in arrays.items()}
        more = {"num_points": len(arrays["coord"]), "total_regions": 1, "max_depth_reached": 0}
        path.write_bytes(pickle.dumps({**content, "hierarchy": TREE, **more}))
    return path


def refused(path):
    """The message of the error that reading raises, which takes little memory and names the file."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read_scene(path)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value.message


KINDS = ("pkl", "ply", "npz", "folder")
