"""Regions of a batch are in the documented order, and segments reduce like single ones."""

from __future__ import annotations

import pickle
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch

from dbbd_cli.model.dbbd.regions import RegionBatch, build_regions
from dbbd_cli.model.dbbd.segment_ops import segment_max, segment_mean, segment_softmax, segment_winner
from unit.model.dbbd.dbbd_reference import Tree, nodes_of, random_tree


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
