"""Sample points from the surface of a mesh: OBJ, glTF, STL and OFF, read with trimesh. Textures are not read."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from dbbd_cli.data.scenes.formats.optional import damage, optional_package
from dbbd_cli.data.scenes.scene import MAX_POINTS, SceneArrays

MESH_SUFFIXES = (".obj", ".glb", ".gltf", ".stl", ".off")
MESH_POINTS = 100_000
"""Number of points unless set otherwise."""
_MAX_MESHES = 100_000
_Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""Turns the y axis, which points up in glTF, to the z axis."""
_MAX_JSON_BYTES = 1 << 27


def read_mesh(path: Path, num_points: int = MESH_POINTS) -> SceneArrays:
    """Sample points from a mesh, in proportion to the area of its faces; see `reader` for what a reader raises.

    The same mesh gives the same points. Colors of vertices are interpolated, and normals are those of the faces.
    Without faces, the vertices are the points.
    """
    trimesh = optional_package("trimesh", "mesh")
    suffix = path.suffix.lower()
    content = path.read_bytes()
    if suffix in (".glb", ".gltf"):
        _check_gltf(content, suffix)
    elif suffix != ".stl" or not _is_binary_stl(content):
        content = _in_utf8(content)
    kind = f"{suffix[1:].upper()} file"
    with damage(kind):
        loaded = trimesh.load_scene(
            io.BytesIO(content), file_type=suffix[1:], process=False, skip_materials=True, resolver=None
        )
        faces, points = _placed(loaded)
    del content, loaded
    if not faces and not points:
        raise ValueError("has neither faces nor points")
    upright = _Y_UP if suffix in (".glb", ".gltf") else np.eye(3)
    parts = faces or points
    coord = np.concatenate([coord for coord, _ in parts]) @ upright.T
    colors = [color for _, color in parts if color is not None]
    color = np.concatenate(colors) if len(colors) == len(parts) else None
    return _sampled(coord, color, num_points) if faces else SceneArrays(coord, color=color)


_Part = tuple[np.ndarray, np.ndarray | None]
"""Coordinates and colors."""


def _placed(scene: Any) -> tuple[list[_Part], list[_Part]]:
    """The triangles of each mesh, `(M, 3, 3)`, and each point cloud, `(N, 3)`, in the coordinates of the scene."""
    nodes = [*scene.graph.nodes_geometry]
    if len(nodes) > _MAX_MESHES:
        raise ValueError(f"it has more than {_MAX_MESHES:,} meshes")
    triangles: list[_Part] = []
    points: list[_Part] = []
    total = 0
    for node in nodes:
        transform, name = scene.graph[node]
        geometry = scene.geometry[name]
        vertices = np.asarray(geometry.vertices, np.float64).reshape(-1, 3)
        vertices = vertices @ np.asarray(transform)[:3, :3].T + np.asarray(transform)[:3, 3]
        faces = np.asarray(getattr(geometry, "faces", np.empty((0, 3), np.int64)))
        total += len(faces) + len(vertices)
        if total > 2 * MAX_POINTS:
            raise ValueError(f"it has more than {2 * MAX_POINTS:,} faces and vertices")
        if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
            raise ValueError("its faces refer to vertices that do not exist")
        color = _corner_colors(geometry, faces, len(vertices))
        if len(faces):
            triangles.append((vertices[faces], color))
        elif len(vertices):
            points.append((vertices, color))
    return triangles, points


def _corner_colors(geometry: Any, faces: np.ndarray, num_vertices: int) -> np.ndarray | None:
    """Colors of the corners of each face, `(M, 3, 3)`, or of the points, `(N, 3)`, from 0 to 255; None if missing."""
    visual = getattr(geometry, "visual", None)
    kind = getattr(visual, "kind", None)
    if not len(faces):
        colors = np.asarray(getattr(geometry, "colors", ()))
        return colors[:, :3] if colors.ndim == 2 and len(colors) == num_vertices and colors.shape[1] >= 3 else None
    if kind == "vertex":
        colors = np.asarray(visual.vertex_colors)[:, :3]  # type: ignore[union-attr]
        return colors[faces] if len(colors) == num_vertices else None
    if kind == "face":
        colors = np.asarray(visual.face_colors)[:, :3]  # type: ignore[union-attr]
        return np.repeat(colors[:, None], 3, axis=1) if len(colors) == len(faces) else None
    return None


def _sampled(corners: np.ndarray, color: np.ndarray | None, num_points: int) -> SceneArrays:
    """Points on triangles.

    Args:
        corners: `(M, 3, 3)`.
        color: colors of the corners, `(M, 3, 3)`, or None.
        num_points: number of points.
    """
    if not np.isfinite(corners).all():
        raise ValueError("its vertices are not finite")
    scale = np.abs(corners - corners[0, 0]).max() or 1.0  # products of large sides would overflow
    sides = (corners[:, 1:] - corners[:, :1]) / scale
    normal = np.cross(sides[:, 0], sides[:, 1])
    area = np.linalg.norm(normal, axis=1)
    if not area.sum() > 0:
        raise ValueError("its faces have no area")
    digest = hashlib.sha256(corners.tobytes()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    reached = np.cumsum(area)
    face = np.searchsorted(reached, rng.random(num_points) * reached[-1], side="right").clip(max=len(corners) - 1)
    first, second = np.sqrt(rng.random(num_points)), rng.random(num_points)
    weights = np.stack([1 - first, first * (1 - second), first * second], axis=1)
    coord = np.einsum("nc,ncd->nd", weights, corners[face])
    sampled = None if color is None else np.einsum("nc,ncd->nd", weights, color[face].astype(np.float64))
    return SceneArrays(coord, normal[face], None if sampled is None else np.rint(sampled).astype(np.uint8))


def _is_binary_stl(content: bytes) -> bool:
    """Whether a file has the length that binary STL declares: 84 bytes, and 50 for each face."""
    return len(content) >= 84 and len(content) == 84 + 50 * struct.unpack("<I", content[80:84])[0]


def _in_utf8(content: bytes) -> bytes:
    """A text in UTF-8, from Latin-1 if it is not: trimesh needs another package to guess the encoding."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return content.decode("latin1").encode()
    return content


def _check_gltf(content: bytes, suffix: str) -> None:
    """Check what trimesh trusts: numbers without data, and buffers in other files, which are not hashed.

    Raises:
        ValueError: the file cannot be read safely; the message says why.
    """
    text = content
    if suffix == ".glb":
        if content[:4] != b"glTF" or len(content) < 20:
            raise ValueError("is not a GLB file: it does not begin with glTF")
        length = struct.unpack("<I", content[12:16])[0]
        text = content[20 : 20 + length]
    if len(text) > _MAX_JSON_BYTES and suffix == ".glb":
        raise ValueError("has a description that is too long")
    with damage("glTF file"):
        tree = json.loads(text)
        buffers, accessors = tree.get("buffers", []), tree.get("accessors", [])
        external = [str(b["uri"])[:60] for b in buffers if "uri" in b and not str(b["uri"]).startswith("data:")]
        no_data = any("bufferView" not in accessor for accessor in accessors)
        num_bytes = sum(int(accessor["count"]) for accessor in accessors)
        used = tree.get("extensionsRequired", [])
    if external:
        raise ValueError(f"has its points in another file, {external[0]}: save it as .glb")
    if used and any("draco" in str(name) or "meshopt" in str(name) for name in used):
        raise ValueError(f"is compressed ({', '.join(map(str, used))[:100]}): save it without compression")
    if no_data or num_bytes > len(content):
        raise ValueError("is damaged, or uses sparse data, which is not read")
