"""All readers of untrusted files and text, by module."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from reader import Reader

_PACKAGES = {
    **{".pcd": "numpy", ".csv": "numpy", ".las": "lazrs", ".laz": "lazrs", ".e57": "pye57"},
    **dict.fromkeys((".obj", ".glb", ".gltf", ".stl", ".off"), "trimesh"),
}
SCENE_SUFFIXES = tuple(suffix for suffix, package in _PACKAGES.items() if find_spec(package))
"""Formats of scenes that have a reader of their own and whose package is installed."""
NAMES = {
    "scene_readers": (
        *("ply", "npy", "npz", "pickle", "scene_ply", "scene_pkl", "scene_npz", "scene_folder", "nested_tree"),
        "array_cache",
        *(f"scene_{suffix[1:]}" for suffix in SCENE_SUFFIXES),
    ),
    "image_readers": ("image", "image_cache", "shard"),
    "text_readers": (
        *("config", "config_mapping", "override", "url_table", "splits", "history", "run_config", "evaluation"),
        *("calibration", "error_pictures", "evaluation_scene", "folders", "completion"),
        *(("parquet",) if find_spec("pyarrow") else ()),
    ),
    "torch_readers": (
        *("tensors", "checkpoint", "bare_weights", "run", "train_state", "resumed_history", "environment"),
    ),
}
"""The readers in each module; importing a module may take seconds."""

PLANTED = {
    "planted_readers": (
        *("raises", "raises_at_once", "breaks_its_promise", "says_two_lines"),
        *("is_slow", "fills_the_memory", "runs_out_of_memory", "crashes"),
    )
}
"""Readers with planted defects."""


def reader_named(name: str) -> Reader:
    """Return a reader by name."""
    module = next(module for module, names in (NAMES | PLANTED).items() if name in names)
    return next(reader for reader in import_module(module).READERS if reader.name == name)
