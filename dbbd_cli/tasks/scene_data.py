"""The scenes of a run, found and read without PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.scenes.cache import PreparedScene, SceneRef, SceneSettings, prepared_scene
from dbbd_cli.data.scenes.manifest import scene_refs


def split_refs(config: Any, manifest: Manifest, split: str) -> list[SceneRef]:
    """References to the scenes of a split, wherever they are now."""
    data = config.data
    return scene_refs(
        manifest,
        split,
        root=Path(data.path) if data.path is not None else None,
        num_points=data.synthetic_points,
        seed=config.seed,
    )


def prepared_scenes(
    config: Any, manifest: Manifest, split: str, numbers: Iterable[int] | None = None
) -> Iterator[PreparedScene]:
    """The prepared scenes of a split, or those with these numbers, one by one."""
    settings, folder = SceneSettings(**config.data.preparation), cache_folder(config.data.cache_dir)
    refs = split_refs(config, manifest, split)
    chosen = refs if numbers is None else [refs[number] for number in numbers]
    return (prepared_scene(ref, settings, folder) for ref in chosen)
