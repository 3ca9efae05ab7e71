"""What probes read of a point: its own features and those of the regions on its path, level by level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.core.progress import Silent
from dbbd_cli.engine.runtime import choose_runtime
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.session import build_workload
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.dbbd.probe_features import (
    PRETRAINED,
    RAW,
    SceneFeatures,
    make_extractors,
    num_channels,
    path_levels,
    point_features,
)
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload

Make = Callable[..., DbbdConfig]


def workload_of(config: DbbdConfig) -> DbbdWorkload:
    prepared, manifest = prepare_run(config, Silent())
    workload, _ = build_workload(prepared, manifest, splits=("train", "test"), pretrained=False, progress=Silent())
    assert isinstance(workload, DbbdWorkload)
    workload.module.eval()
    return workload


@pytest.mark.parametrize("levels", [[0, 1, 2, 3], [1, 3], [0, 1, 2, 3, 4, 5]])
def test_a_path_holds_the_regions_of_both_branches_that_contain_the_point(
    tiny_point_config: Make, levels: list[int]
) -> None:
    workload = workload_of(tiny_point_config(data__max_depth=3, data__min_region_points=100))
    runtime = choose_runtime("cpu", "fp32")
    scene = next(workload.single_scenes("train"))
    tree = next(workload.prepared_scenes("train")).tree
    chosen = torch.arange(0, 1000, 83)
    found = make_extractors(workload, runtime, levels)[PRETRAINED](scene).of(chosen)

    encoder = workload.module.encoder
    arguments = workload.without_views(scene, runtime.device)
    with torch.no_grad():
        branches = [encoder.global_to_local(*arguments), encoder.local_to_global(*arguments)]
    leaf_levels = set()
    for place, point in enumerate(chosen.tolist()):
        # The nodes that contain the point, from the root down; the rows of a level are in depth-first order.
        on_path = [
            node
            for node in range(len(tree.parent))
            if point in tree.indices[tree.indices_ptr[node] : tree.indices_ptr[node + 1]]
        ]
        leaf_levels.add(len(on_path) - 1)
        parts = [branches[0].points[point]]
        for level in levels:
            node = on_path[min(level, len(on_path) - 1)]
            of_level = np.flatnonzero(tree.level == tree.level[node])
            row = int(np.searchsorted(of_level, node))
            parts += [branch.regions[tree.level[node]][row] for branch in branches]
        torch.testing.assert_close(found[place], torch.cat(parts), rtol=1e-4, atol=1e-5)
    assert len(leaf_levels) > 1
    assert found.shape[1] == num_channels(workload, levels)


def test_features_can_be_those_of_the_leaf_alone(tiny_point_config: Make) -> None:
    workload = workload_of(tiny_point_config(probe__features="leaf"))
    runtime = choose_runtime("cpu", "fp32")
    assert path_levels(workload, ("train", "test")) == []
    scene = next(workload.single_scenes("test"))
    found = make_extractors(workload, runtime, [])[PRETRAINED](scene).of(torch.arange(1000))
    torch.testing.assert_close(found, point_features(workload, workload.module.encoder, scene, runtime))


def test_raw_features_are_the_input_of_the_network(tiny_point_config: Make) -> None:
    workload = workload_of(tiny_point_config(data__features=["height"]))
    scene = next(workload.single_scenes("test"))
    found = make_extractors(workload, choose_runtime("cpu", "fp32"), [0])[RAW](scene).of(torch.tensor([3, 5]))
    assert torch.equal(found, torch.cat([scene.coord, scene.coord[:, 2:]], dim=1)[[3, 5]])


@pytest.mark.parametrize(
    ("channels", "depth", "levels"),
    [(16, 2, [1, 2]), (16, 3, [1, 2, 3]), (500, 3, [3]), (400, 3, [1, 3]), (2048, 2, [2])],
)
def test_long_paths_are_thinned_out(tiny_point_config: Make, channels: int, depth: int, levels: list[int]) -> None:
    workload = workload_of(tiny_point_config(data__max_depth=depth, model__output_dim=channels))
    assert path_levels(workload, ("train", "test")) == levels


def test_the_root_counts_only_if_there_is_nothing_below(tiny_point_config: Make) -> None:
    workload = workload_of(tiny_point_config(data__min_region_points=100_000))
    assert path_levels(workload, ("train", "test")) == [0]


def test_only_the_parts_of_chosen_points_are_joined() -> None:
    parts: Any = SceneFeatures(
        torch.tensor([[0.0], [1.0], [2.0]]),
        torch.tensor([[10.0, 11.0], [20.0, 21.0]]),
        torch.tensor([[0, 0, 0], [1, 0, 1]]),
    )
    assert parts.of(torch.tensor([2, 1])).tolist() == [[2, 10, 11, 20, 21], [1, 10, 11, 10, 11]]
