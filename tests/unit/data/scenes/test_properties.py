"""Scenes are measured, and the same points are recognized in another order, place and unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dbbd_cli.data.scenes.cache import Room, SceneRef
from dbbd_cli.data.scenes.properties import scene_facts, scene_properties, scene_relations
from dbbd_cli.data.scenes.reader import EVERY_POINT


def test_properties_and_relations(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    coord = random.random((50, 3)) * [4, 2, 1]
    clouds = {
        "a": {"coord": coord},
        "b": {"coord": coord[::-1] * 1000 + 5e5, "color": np.zeros((50, 3))},
        "c": {"coord": random.random((50, 3)) * [4, 2, 1], "segment": np.zeros(50, int)},
    }
    for name, arrays in clouds.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    refs = [SceneRef(tmp_path / f"{name}.npz", "") for name in clouds]
    refs.append(SceneRef(Room(1, 0, 500), ""))
    facts = [scene_facts(ref, EVERY_POINT) for ref in refs]
    values = {part.name: part.values.tolist() for part in scene_properties(facts)}
    assert values["number of points"][:3] == [50, 50, 50]
    assert np.allclose(values["extent"][1], 1000 * values["extent"][0], rtol=1e-3)
    assert values["suffix"] == [".npz", ".npz", ".npz", "synthetic"]
    assert values["colors"][:3] == ["no", "yes", "no"]
    assert values["labels"][:3] == ["no", "no", "yes"]
    [relation] = scene_relations(facts)
    assert relation.keys[0] == relation.keys[1]
    assert len(set(relation.keys)) == 3
