"""Regions of a batch are in the documented order, and segments reduce like single ones."""

from __future__ import annotations

import pickle
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch

from dbbd_cli.model.dbbd.regions import RegionBatch, build_partial_views, build_regions
from dbbd_cli.model.dbbd.segment_ops import segment_max, segment_mean, segment_softmax, segment_winner
from unit.model.dbbd.dbbd_reference import Tree, nodes_of, pruned, random_tree


def tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [tensor for item in value for tensor in tensors(item)]
    if is_dataclass(value):
        return [tensor for field in fields(value) for tensor in tensors(getattr(value, field.name))]
    return []


def batch() -> tuple[list[Tree], list[int], RegionBatch]:
    rng = np.random.default_rng(0)
    sizes = [40, 9, 31]
    trees = [random_tree(rng, size, depth) for size, depth in zip(sizes, (3, 1, 4), strict=True)]
    return trees, sizes, build_regions(trees, sizes)


def test_rows_of_a_level_are_in_scene_and_depth_first_order() -> None:
    trees, _, regions = batch()
    assert (regions.num_scenes, regions.num_points, len(regions.levels)) == (3, 80, 5)
    for number, level in enumerate(regions.levels):
        expected = [
            ([point + first for point in node.points], node.center + first)
            for tree, first in zip(trees, (0, 40, 49), strict=True)
            for node in nodes_of(tree)
            if node.level == number
        ]
        assert level.num_regions == len(expected)
        for row, (points, center) in enumerate(expected):
            assert level.points.index[level.points.segment == row].tolist() == points
            assert level.points.index[level.points.start[row]] == points[0]
            assert level.points.center[row] == center
        if number:
            above = regions.levels[number - 1].points
            for row, (points, _) in enumerate(expected):
                assert set(points) <= set(above.index[above.segment == level.parent[row]].tolist())
        counts = [sum(node.level == number for node in nodes_of(tree)) for tree in trees]
        assert level.offset.diff().tolist() == counts


def test_leaves_contain_every_point_once_and_picks_keep_their_order() -> None:
    trees, sizes, regions = batch()
    assert sorted(regions.leaves.index.tolist()) == list(range(80))
    assert regions.leaves.index[regions.leaves.picked].tolist() == list(range(80))
    chosen = np.array([70, 3, 3, 45, 12])
    picked = build_regions(trees, sizes, point_index=chosen)
    assert picked.leaves.index[picked.leaves.picked].tolist() == chosen.tolist()
    by_level = torch.cat([level.points.index[level.points.picked] for level in picked.levels])
    assert by_level[picked.point_order].tolist() == picked.point.tolist() == chosen.tolist()


def test_a_view_of_all_points_has_the_same_regions() -> None:
    trees, sizes, regions = batch()
    every = np.ones(80, dtype=bool)
    first, (second,) = build_partial_views(trees, sizes, [every, every], [np.arange(80)])
    for found in (first, second.regions):
        for one, other in zip(tensors(found), tensors(regions), strict=True):
            assert torch.equal(one, other)
    for shared, level in zip(second.shared, regions.levels, strict=True):
        assert shared.first.tolist() == shared.second.tolist() == list(range(level.num_regions))
        assert torch.equal(shared.offset, level.offset)


def test_a_partial_view_has_the_regions_of_the_trees_of_its_points() -> None:
    trees, sizes, _ = batch()
    rng = np.random.default_rng(1)
    keep = [rng.random(80) < share for share in (0.5, 0.15)]
    for mask in keep:
        mask[[0, 40, 49]] = True
    for tree, mask in zip(trees, np.split(keep[1], [40, 49]), strict=True):
        for node in nodes_of(tree):
            mask[node.points if node.level == 4 else []] = False
    common = np.flatnonzero(keep[0] & keep[1])
    first, (view,) = build_partial_views(trees, sizes, keep, [common])
    left = [[pruned(tree, part) for tree, part in zip(trees, np.split(mask, [40, 49]), strict=True)] for mask in keep]
    for regions, parts in ((first, left[0]), (view.regions, left[1])):
        expected = levels_of([tree for tree, _ in parts], sizes)
        assert len(regions.levels) == len(expected)
        for level, (members, centers, parents) in zip(regions.levels, expected, strict=True):
            found = [level.points.index[level.points.segment == row].tolist() for row in range(level.num_regions)]
            assert found == members
            assert level.points.center.tolist() == centers
            assert level.parent.tolist() == parents
        assert regions.leaves.index[regions.leaves.picked].tolist() == common.tolist()
        by_level = torch.cat([level.points.index[level.points.picked] for level in regions.levels])
        assert by_level[regions.point_order].tolist() == common.tolist()
    assert len(view.regions.levels) < len(first.levels)
    for number, shared in enumerate(view.shared):
        names = [
            [
                (scene, node)
                for scene, (tree, rest) in enumerate(parts)
                for node, level in zip(rest, tree.level, strict=True)
                if level == number
            ]
            for parts in left
        ]
        both = [name for name in names[0] if name in names[1]]
        assert [names[0][row] for row in shared.first.tolist()] == both
        assert [names[1][row] for row in shared.second.tolist()] == both
        assert shared.offset.diff().tolist() == [sum(name[0] == scene for name in both) for scene in range(3)]


def levels_of(trees: list[Tree], sizes: list[int]) -> list[tuple[list[list[int]], list[int], list[int]]]:
    """Points, centers and parents' rows of the regions of each level, in plain loops."""
    levels: list[tuple[list[list[int]], list[int], list[int]]] = []
    rows: dict[tuple[int, int], int] = {}
    for number in range(max(int(tree.level.max()) for tree in trees) + 1):
        level: tuple[list[list[int]], list[int], list[int]] = ([], [], [])
        for scene, (tree, start) in enumerate(zip(trees, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True)):
            for place, node in enumerate(nodes_of(tree)):
                if node.level == number:
                    rows[scene, place] = len(level[0])
                    level[0].append([point + start for point in node.points])
                    level[1].append(node.center + start)
                    level[2].append(rows.get((scene, node.parent), 0))
        levels.append(level)
    return levels


def test_a_batch_can_be_moved_and_pickled() -> None:
    _, _, regions = batch()
    for copy in (pickle.loads(pickle.dumps(regions)), regions.to("cpu", non_blocking=True)):
        assert isinstance(copy, RegionBatch)
        assert [level.leaves for level in copy.levels] == [level.leaves for level in regions.levels]
        pairs = list(zip(tensors(copy), tensors(regions), strict=True))
        assert len(pairs) > 20
        assert all(torch.equal(a, b) for a, b in pairs)
    assert {tensor.device.type for tensor in tensors(regions.to("meta"))} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_batch_can_be_pinned() -> None:
    assert all(tensor.is_pinned() for tensor in tensors(batch()[2].pin_memory()))


def segments() -> tuple[torch.Tensor, torch.Tensor, list[slice]]:
    lengths = [3, 1, 4, 2]
    start = np.cumsum([0, *lengths[:-1]])
    segment = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    return segment, torch.from_numpy(start), [slice(s, s + n) for s, n in zip(start, lengths, strict=True)]


def test_segments_are_reduced_as_one_by_one() -> None:
    torch.manual_seed(0)
    segment, start, parts = segments()
    x = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(segment_max(x, segment, start), torch.stack([x[part].amax(0) for part in parts]))
    torch.testing.assert_close(segment_mean(x, segment, 4), torch.stack([x[part].mean(0) for part in parts]))
    torch.testing.assert_close(segment_softmax(x, segment, 4), torch.cat([x[part].softmax(0) for part in parts]))
    for function in (
        lambda x: segment_max(x, segment, start),
        lambda x: segment_mean(x, segment, 4),
        lambda x: segment_softmax(x, segment, 4),
    ):
        assert torch.autograd.gradcheck(function, (x,))


def test_the_first_of_equal_values_gets_the_whole_gradient() -> None:
    segment, start, _ = segments()
    x = torch.tensor([1, 2, 2, 5, 0, 0, 0, 0, -3, -3.0])[:, None].repeat(1, 2).requires_grad_()
    _, winner = segment_winner(x.detach(), segment, start)
    assert winner.tolist() == [[1, 1], [3, 3], [4, 4], [8, 8]]
    segment_max(x, segment, start).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [0, 1, 0, 1, 1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_maximum_hides_no_value_that_is_not_finite(value: float) -> None:
    segment, start, _ = segments()
    x = torch.zeros(10, 1)
    x[2] = value
    assert torch.isfinite(segment_max(x, segment, start)).flatten().tolist() == [False, True, True, True]
