"""The head sees the regions of each point, the loss is the one of the paper, and counts are exact.

The reference of the Lovász-softmax loss is the definition: the Lovász extension of the Jaccard loss is its mean over
random thresholds of the errors.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dbbd_cli.data.scenes.trees.builder import build_tree
from dbbd_cli.model.dbbd.encoder import DbbdEncoder
from dbbd_cli.model.dbbd.regions import RegionBatch, build_regions
from dbbd_cli.model.dbbd.segment_ops import segment_mean
from dbbd_cli.model.dbbd.segmentation import (
    IGNORED,
    LinearHead,
    PointHead,
    SceneSegmenter,
    class_counts,
    lovasz_softmax,
    mean_log_shares,
)
from dbbd_cli.model.forest import Forest
from dbbd_cli.model.linear_probe import confusion_counts, fit_probe, scores_of_counts, segmentation_scores
from dbbd_cli.model.numeric_pieces import encode_pieces

CLASSES = 3
LEVELS = (1, 2, 4)
"""One of them is deeper than the trees."""


def scenes(point_index: np.ndarray | None = None) -> tuple[torch.Tensor, RegionBatch]:
    random = np.random.default_rng(4)
    coords = [random.random((size, 3)).astype(np.float32) for size in (150, 90)]
    trees = [build_tree(coord, max_depth=3, min_region_points=8) for coord in coords]
    return torch.from_numpy(np.concatenate(coords)), build_regions(trees, [150, 90], point_index=point_index)


def segmenter(branches: str = "both", *, region_means: bool = True, **options: object) -> SceneSegmenter:
    torch.manual_seed(0)
    encoder = DbbdEncoder(feature_dim=2, hidden_dim=8, output_dim=8, encoder_hidden_dims=(8,), propagator_hidden_dim=8)
    head = PointHead(
        feature_dim=2, num_pieces=4, levels=LEVELS, region_means=region_means, region_dim=8,
        num_branches={"both": 2, "none": 0}.get(branches, 1), hidden_dim=8, members=3, num_classes=CLASSES, dropout=0.1,
    )  # fmt: skip
    network = SceneSegmenter(
        encoder, head, branches=branches, **{"freeze_encoder": False, "lovasz_weight": 0.5, **options}
    )
    fit(network, [90, 9, 1], "inverse_sqrt")
    return network


def fit(network: SceneSegmenter, counts: list[int], weighting: str) -> None:
    classes = torch.arange(100) % CLASSES
    network.fit(torch.randn(100, 2), classes, torch.tensor(counts), weighting=weighting, seed=1)


def jaccard_loss(wrong: torch.Tensor, is_label: torch.Tensor) -> float:
    """1 - IoU of a class, if the points `wrong` are mispredicted."""
    predicted = is_label ^ wrong
    return 1 - float((predicted & is_label).sum() / (predicted | is_label).sum())


def test_the_lovasz_loss_is_the_extension_of_the_jaccard_loss() -> None:
    torch.manual_seed(2)
    shares = torch.randn(12, CLASSES, dtype=torch.float64).softmax(1)
    target = torch.tensor([0, 0, 0, 0, 2, 2, 0, 2, 0, 2, IGNORED, IGNORED])
    known = target != IGNORED
    expected = []
    for label in (0, 2):  # the classes that occur
        is_label = target[known] == label
        error = (is_label.double() - shares[known, label]).abs()
        edges = [0.0, *sorted(error.tolist())]
        # Between two errors, the set of those above a threshold stays the same.
        expected.append(sum((high - low) * jaccard_loss(error >= high, is_label) for low, high in pairwise(edges)))
    assert float(lovasz_softmax(shares, target)) == pytest.approx(sum(expected) / 2)


@pytest.mark.parametrize("label", [0, 1])
def test_the_lovasz_loss_is_0_for_a_perfect_and_1_for_a_wholly_wrong_prediction(label: int) -> None:
    target = torch.zeros(5, dtype=torch.int64)
    shares = F.one_hot(torch.full((5,), label), CLASSES).double()
    assert float(lovasz_softmax(shares, target)) == pytest.approx(label)


def test_a_batch_without_labels_has_a_loss_of_0_and_no_counts() -> None:
    coord, regions = scenes()
    network = segmenter()
    output = network(coord, coord[:, :2], coord[:, :2], regions, torch.full((240,), IGNORED))
    output.loss.backward()
    assert float(output.loss.detach()) == 0
    assert not output.metrics["counts"].any()


def test_each_point_knows_the_row_of_its_region_on_each_level() -> None:
    chosen = np.array([3, 70, 149, 150, 239])
    _, regions = scenes(chosen)
    rows = regions.rows_of_points()
    assert len(rows) == len(regions.levels)
    assert rows[0].tolist() == [0, 0, 0, 1, 1]
    for level, row in zip(regions.levels, rows, strict=True):
        members = [set(level.points.index[level.points.segment == each].tolist()) for each in range(level.num_regions)]
        for point, each in zip(chosen.tolist(), row.tolist(), strict=True):
            assert point in members[each] if each >= 0 else not any(point in found for found in members)
    assert any((row < 0).any() for row in rows)  # some leaf is not on the last level


def test_the_path_of_a_point_ends_with_its_leaf() -> None:
    _, regions = scenes(np.array([3, 70, 149, 150, 239]))
    deepest = len(regions.levels) - 1
    path = regions.path_rows(range(deepest + 2))
    first = np.cumsum([0, *(level.num_regions for level in regions.levels)])
    for number, row in enumerate(regions.rows_of_points()):
        expected = torch.where(row < 0, path[number - 1], row + int(first[number]))
        assert path[number].equal(expected)
    assert path[deepest + 1].equal(path[deepest])


@pytest.mark.parametrize("with_means", [True, False])
def test_the_first_layer_is_the_one_on_the_concatenation(with_means: bool) -> None:
    coord, regions = scenes()
    network = segmenter(region_means=with_means).eval()
    feat = coord[:, :2].contiguous()
    trees = regions.without_picked()
    branches = [
        network.encoder.global_to_local(coord, feat, trees).regions,
        network.encoder.local_to_global(coord, feat, trees).regions,
    ]
    _, parts, rows = network._inputs(coord, feat, feat, regions)
    context = network.head.context(parts)
    assert torch.equal(rows, regions.path_rows(LEVELS))
    found = torch.stack([level[row] for level, row in zip(context, rows, strict=True)]).sum(0)
    columns = [F.layer_norm(torch.cat(branch), (8,)) for branch in branches]
    if with_means:
        codes = encode_pieces(feat, network.head.codes.lower, network.head.codes.width).flatten(1)
        codes = (codes - network.head.codes.mean) / network.head.codes.deviation
        means = [
            segment_mean(codes[level.points.index], level.points.segment, level.num_regions) for level in regions.levels
        ]
        columns.append(torch.cat(means))
    seen = torch.cat(columns, 1)
    weight = torch.cat([layer.weight for layer in network.head.region_layers], 1)  # type: ignore[misc]
    expected = torch.cat([seen[row] for row in rows], 1) @ weight.T
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("branches", ["both", "g2l", "l2g", "none"])
def test_shares_are_probabilities_and_the_same_for_some_points_as_for_all(branches: str) -> None:
    network = segmenter(branches).eval()
    coord, regions = scenes()
    feat = coord[:, :2].contiguous()
    chosen = np.array([5, 60, 200])
    with torch.no_grad():
        everything = network.log_shares(coord, feat, feat, regions)
        some = network.log_shares(coord, feat, feat, scenes(chosen)[1])
    assert torch.allclose(everything.exp().sum(1), torch.ones(240), atol=1e-5)
    assert torch.allclose(some, everything[chosen], atol=1e-5)


def test_a_frozen_encoder_gets_no_gradient_and_a_free_one_does() -> None:
    coord, regions = scenes()
    feat, classes = coord[:, :2].contiguous(), torch.arange(240) % CLASSES
    for freeze in (True, False):
        network = segmenter(freeze_encoder=freeze)
        network(coord, feat, feat, regions, classes).loss.backward()
        assert any(parameter.grad is not None for parameter in network.encoder.parameters()) != freeze
        assert network.head.layer1.weight.grad is not None


def test_classes_have_the_weight_of_their_frequency_and_points_weigh_1_on_average() -> None:
    network = segmenter()
    share = torch.tensor([0.90, 0.09, 0.01])
    weights = network.class_weights
    assert float((weights * share).sum()) == pytest.approx(1)
    assert float(weights[2] / weights[0]) == pytest.approx(90**0.5)
    fit(network, [10, 0, 1], "inverse")
    assert float(network.class_weights[1]) == 0
    assert float(network.class_weights[2] / network.class_weights[0]) == pytest.approx(10)
    fit(network, [10, 0, 1], "none")
    assert network.class_weights.tolist() == [1, 0, 1]


def test_the_loss_in_evaluation_is_the_weighted_cross_entropy_of_the_mean_probabilities() -> None:
    network = segmenter(lovasz_weight=0.0).eval()
    coord, regions = scenes()
    feat = coord[:, :2].contiguous()
    classes = torch.where(torch.arange(240) % 4 == 3, IGNORED, torch.arange(240) % 4)
    with torch.no_grad():
        output = network(coord, feat, feat, regions, classes)
        features, parts, rows = network._inputs(coord, feat, feat, regions)
        members = network.head(features, network.head.context(parts), rows)
    mean = members.softmax(2).mean(0)
    assert torch.allclose(mean_log_shares(members).exp(), mean, atol=1e-6)
    expected = F.cross_entropy(mean.log(), classes, network.class_weights, ignore_index=IGNORED)
    assert float(output.loss) == pytest.approx(float(expected), rel=1e-5)


def test_counts_give_the_scores_of_the_confusion_matrix() -> None:
    generator = torch.Generator().manual_seed(1)
    predicted, target = (torch.randint(4, (500,), generator=generator) for _ in range(2))
    target[target == 2] = 1
    target[:50] = IGNORED
    counts = class_counts(predicted, target, 4).double().view(3, 4)
    known = target != IGNORED
    confusion = confusion_counts(predicted[known], target[known], 4)
    assert scores_of_counts(counts) == segmentation_scores(confusion)
    assert counts.sum().item() == confusion.diagonal().sum() + 2 * known.sum()


def linear_for(network: SceneSegmenter) -> LinearHead:
    """A linear classifier with random weights for a network with region means and both branches."""
    codes = network.head.codes.num_codes
    region_dim = codes + 16 * network.freeze_encoder
    linear = LinearHead(point_dim=codes, region_dim=region_dim, num_levels=len(LEVELS), num_classes=CLASSES)
    for buffer in linear.buffers():
        buffer.normal_()
    return linear


@pytest.mark.parametrize("frozen", [True, False])
def test_the_linear_classifier_has_its_share_in_evaluation_and_none_in_training(frozen: bool) -> None:
    coord, regions = scenes()
    feat, classes = coord[:, :2].contiguous(), torch.arange(240) % CLASSES
    network = segmenter(freeze_encoder=frozen, linear_share=0.25)
    alone = network.eval().log_shares(coord, feat, feat, regions).exp()
    with torch.no_grad():
        network.linear = linear_for(network)
        codes, of_regions = network.linear_inputs(coord, feat, feat, regions, torch.arange(240))
        weight = torch.cat([network.linear.of_point, *network.linear.of_regions], dim=1)
        logits = torch.cat([codes, of_regions.flatten(1)], dim=1) @ weight.T + network.linear.bias
        mixed = network.log_shares(coord, feat, feat, regions).exp()
        weighted = logits.softmax(1) * network.class_weights
        assert torch.allclose(mixed, 0.75 * alone + 0.25 * weighted / weighted.sum(1, keepdim=True), atol=1e-5)
        losses = []
        for linear in (network.linear, None):
            network.train().linear = linear
            torch.manual_seed(0)
            losses.append(float(network(coord, feat, feat, regions, classes).loss))
    assert losses[0] == losses[1]


def test_the_linear_classifier_is_the_probe_on_all_its_inputs() -> None:
    torch.manual_seed(3)
    codes, regions, classes = torch.randn(200, 8), torch.randn(200, 2, 5), torch.randint(0, 2, (200,))
    codes[:, 0] += 3 * classes
    linear = LinearHead(point_dim=8, region_dim=5, num_levels=2, num_classes=3)
    linear.fit(codes, regions, classes, balance=0.5)
    probe = fit_probe(torch.cat([codes, regions.flatten(1)], 1), classes, 3, balance=0.5, weight_decay=0.01)
    rows = torch.arange(200).expand(2, 200)
    context = [regions[:, level] @ linear.of_regions[level].T for level in range(2)]
    logits = linear(codes, context, rows)
    assert torch.equal(logits.argmax(1), probe.predict(torch.cat([codes, regions.flatten(1)], 1)))
    assert (logits.argmax(1) == classes).float().mean() > 0.85
    assert float(logits.softmax(1)[:, 2].max()) == 0  # no point has this class
    assert all(bool(value.isfinite().all()) for value in linear.state_dict().values())


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("branches", ["none", "both"])
def test_without_features_of_regions_the_linear_classifier_sees_the_point_alone(branches: str) -> None:
    coord, regions = scenes()
    network = segmenter(branches, region_means=False)
    linear = LinearHead(point_dim=network.head.codes.num_codes, region_dim=0, num_levels=0, num_classes=CLASSES)
    network.linear = linear
    feat = coord[:, :2].contiguous()
    codes, of_regions = network.linear_inputs(coord, feat, feat, regions, torch.arange(240))
    linear.fit(codes, of_regions, torch.arange(240) % CLASSES, balance=0.0)
    found = network.eval().log_shares(coord, feat, feat, regions).exp()
    assert torch.allclose(found.sum(1), torch.ones(240), atol=1e-5)


def test_the_forest_has_its_share_in_evaluation_and_none_in_training() -> None:
    coord, regions = scenes()
    feat, classes = coord[:, :2].contiguous(), torch.arange(240) % CLASSES
    alone, mixed = segmenter(), segmenter(forest=Forest(3, CLASSES), forest_share=0.25)
    mixed.load_state_dict(alone.state_dict(), strict=False)
    assert mixed.forest is not None
    with torch.no_grad():
        trees = mixed.forest(feat) * mixed.class_weights
        head = alone.eval().log_shares(coord, feat, feat, regions).exp()
        expected = 0.75 * head + 0.25 * trees / trees.sum(1, keepdim=True)
        assert torch.allclose(mixed.eval().log_shares(coord, feat, feat, regions).exp(), expected, atol=1e-5)
        losses = []
        for network in (alone.train(), mixed.train()):
            torch.manual_seed(0)
            losses.append(float(network(coord, feat, feat, regions, classes).loss))
    assert losses[0] == losses[1]
