"""The specification of DBBD in plain loops over scenes, regions and points, and random trees to run it on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from dbbd_cli.model.dbbd.pretraining import DbbdPretraining


@dataclass
class Tree:
    parent: np.ndarray
    level: np.ndarray
    center_idx: np.ndarray
    indices: np.ndarray
    indices_ptr: np.ndarray


@dataclass
class Node:
    points: list[int]
    level: int
    center: int
    parent: int
    children: list[int] = field(default_factory=list)


def random_tree(rng: np.random.Generator, num_points: int, depth: int, children: int = 3) -> Tree:
    """Random partitions; the first child goes as deep as `depth`, the others may end before."""
    nodes: list[Node] = []

    def grow(points: np.ndarray, level: int, parent: int, deep: bool) -> None:
        number = len(nodes)
        nodes.append(Node(list(points), level, int(rng.choice(points)), parent))
        if level == depth or len(points) < 2 or not (deep or rng.random() < 0.6):
            return
        group = rng.integers(0, children, len(points))
        group[0] = 0
        for child in range(children):
            if (group == child).any():
                grow(points[group == child], level + 1, number, deep and child == 0)

    grow(rng.permutation(num_points), 0, -1, True)
    return to_tree(nodes)


def to_tree(nodes: list[Node]) -> Tree:
    return Tree(
        parent=np.array([node.parent for node in nodes], dtype=np.int32),
        level=np.array([node.level for node in nodes], dtype=np.int32),
        center_idx=np.array([node.center for node in nodes], dtype=np.int32),
        indices=np.concatenate([np.asarray(node.points) for node in nodes]).astype(np.int32),
        indices_ptr=np.cumsum([0] + [len(node.points) for node in nodes]),
    )


def pruned(tree: Tree, keep: np.ndarray) -> tuple[Tree, list[int]]:
    """The tree of the points in `keep` alone, without nodes that have none of them; and the nodes that are left."""
    nodes = nodes_of(tree)
    left = [number for number, node in enumerate(nodes) if any(keep[point] for point in node.points)]
    place = {number: new for new, number in enumerate(left)}
    made = [
        Node(
            [point for point in nodes[number].points if keep[point]],
            nodes[number].level,
            nodes[number].center,
            place.get(nodes[number].parent, -1),
        )
        for number in left
    ]
    return to_tree(made), left


def nodes_of(tree: Tree) -> list[Node]:
    nodes = []
    for number, parent in enumerate(tree.parent):
        points = tree.indices[tree.indices_ptr[number] : tree.indices_ptr[number + 1]]
        nodes.append(Node([int(p) for p in points], int(tree.level[number]), int(tree.center_idx[number]), int(parent)))
        if parent >= 0:
            nodes[parent].children.append(number)
    return nodes


def first_max(x: torch.Tensor) -> torch.Tensor:
    """Maximum over rows; among equals the first has the gradient."""
    winners = [min(row for row in range(len(x)) if x[row, c] == x[:, c].max()) for c in range(x.shape[1])]
    return torch.stack([x[row, c] for c, row in enumerate(winners)])


def reference_branch(
    module: DbbdPretraining, coord: torch.Tensor, feat: torch.Tensor, tree: Tree, *, down: bool
) -> tuple[dict[int, list[torch.Tensor]], torch.Tensor]:
    """Features of one scene's regions by level, and of its points."""
    net, nodes = module.encoder, nodes_of(tree)
    features: dict[int, torch.Tensor] = {}
    points: dict[int, torch.Tensor] = {}

    def pool(x: torch.Tensor) -> torch.Tensor:
        return first_max(x) if net.pooling == "max" else x.mean(dim=0)

    def encode(number: int, hidden: torch.Tensor) -> None:
        node = nodes[number]
        x = net.encoder.backbone.mlp(torch.cat([coord[node.points] - coord[node.center], hidden], dim=1))
        features[number] = pool(x)
        if not node.children:
            points.update(zip(node.points, x, strict=True))

    def go_down(number: int) -> None:
        node = nodes[number]
        if node.parent < 0:
            hidden = net.raw_projection.mlp(feat[node.points])
        else:
            above = features[node.parent].expand(len(node.points), -1)
            context = net.propagator.mlp(torch.cat([above, coord[node.points]], dim=1))
            hidden = net.combine_projection.projection.mlp(torch.cat([feat[node.points], context], dim=1))
        encode(number, hidden)
        for child in node.children:
            go_down(child)

    def go_up(number: int) -> None:
        node = nodes[number]
        for child in node.children:
            go_up(child)
        if not node.children:
            return encode(number, net.raw_projection.mlp(feat[node.points]))
        x = net.aggregator.pre_mlp(torch.stack([features[child] for child in node.children]))
        if net.aggregator.mode == "attention":
            attention = net.aggregator.attention
            centers = [nodes[child].center for child in node.children]
            x = x + attention.spatial_encoder(coord[centers] - coord[node.center])
            key, value = attention.key_proj(x), attention.value_proj(x)
            width = x.shape[1] // attention.num_heads
            heads = []
            for head in range(attention.num_heads):
                part = slice(head * width, (head + 1) * width)
                weight = (key[:, part] @ attention.query[0, part] / math.sqrt(width)).softmax(dim=0)
                heads.append(weight @ value[:, part])
            features[number] = attention.out_proj(torch.cat(heads))
        else:
            features[number] = first_max(x) if net.aggregator.mode == "max" else x.mean(dim=0)
        return None

    (go_down if down else go_up)(0)
    levels: dict[int, list[torch.Tensor]] = {}
    for number, node in enumerate(nodes):
        levels.setdefault(node.level, []).append(features[number])
    return levels, torch.stack([points[p] for p in sorted(points)])


def reference_loss(
    module: DbbdPretraining,
    views: list[tuple[torch.Tensor, torch.Tensor]],
    trees: list[Tree],
    sizes: list[int],
    chosen: np.ndarray,
) -> tuple[torch.Tensor, dict[int, torch.Tensor], list[list[torch.Tensor]], list[torch.Tensor]]:
    """Total loss, loss by level, region features by branch and level, point features by branch."""
    regions, points = [], []
    for down, (coord, feat) in zip([True, False], views, strict=True):
        joined: dict[int, list[torch.Tensor]] = {}
        scene_points = []
        for tree, one_coord, one_feat in zip(trees, coord.split(sizes), feat.split(sizes), strict=True):
            levels, of_points = reference_branch(module, one_coord, one_feat, tree, down=down)
            for level, rows in levels.items():
                joined.setdefault(level, []).extend(rows)
            scene_points.append(of_points)
        regions.append([torch.stack(joined[level]) for level in sorted(joined)])
        points.append(torch.cat(scene_points)[torch.from_numpy(chosen)])

    def contrast(head: torch.nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        q, k = (F.normalize(head.layers(x), dim=1) for x in (a, b))
        return F.cross_entropy(q @ k.T / module.loss.temperature, torch.arange(len(q)))

    by_level = {
        level: contrast(module.loss.region_projection, a, b)
        for level, (a, b) in enumerate(zip(*regions, strict=True))
        if len(a) > 1
    }
    point = contrast(module.loss.point_projection, *points)
    region = sum(by_level.values()) / len(by_level) if by_level else 0
    total = module.loss.region_weight * region + module.loss.point_weight * point
    return total, by_level, regions, points
