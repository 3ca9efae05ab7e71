"""Scenes of NumPy arrays are refused, with the name of the array, if they hold anything but numbers."""

import os

import numpy as np
import pytest

from unit.data.scenes.scene_files import refused


class Payload:
    def __reduce__(self):
        return os.mkdir, ("payload-was-run",)


@pytest.mark.parametrize("suffix", [".npz", ""])
def test_an_array_of_objects_is_refused_and_named(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scene").mkdir()
    np.save(tmp_path / "scene" / "coord.npy", np.array([Payload()] * 3, dtype=object), allow_pickle=True)
    np.savez(tmp_path / "scene.npz", coord=np.array([Payload()] * 3, dtype=object))
    message = refused(tmp_path / f"scene{suffix}")
    assert f"its {'array coord' if suffix else 'file coord.npy'} is not an array of numbers" in message
    assert not (tmp_path / "payload-was-run").exists()
