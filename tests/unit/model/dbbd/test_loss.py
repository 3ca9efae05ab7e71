"""The losses equal plain cross-entropy, and the indicators of collapse have their known values."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dbbd_cli.model.dbbd import loss as dbbd_loss
from dbbd_cli.model.dbbd.encoder import BranchFeatures
from dbbd_cli.model.dbbd.loss import (
    DbbdLoss,
    DbbdLosses,
    alignment,
    balanced_assignment,
    contrast,
    effective_rank,
    feature_std,
    gram_matrix,
    info_nce,
    uniformity,
)


def unit(rows: int, channels: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, channels, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("piece", [1, 60, 1 << 22])
def test_info_nce_is_cross_entropy_in_chunks_of_any_size(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbbd_loss, "_MAX_LOGITS", piece)
    q, k = unit(17, 5, 0).requires_grad_(), unit(17, 5, 1).requires_grad_()
    logits = q @ k.T / 0.07
    expected = F.cross_entropy(logits, torch.arange(17))
    expected_grads = torch.autograd.grad(3 * expected, (q, k))
    loss, correct = info_nce(q, k, 0.07)
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(torch.autograd.grad(3 * loss, (q, k)), expected_grads, strict=True):
        torch.testing.assert_close(found, wanted)
    assert correct == (logits.argmax(1) == torch.arange(17)).sum() > 0


def test_info_nce_of_one_input_and_of_low_temperatures() -> None:
    q, k = unit(9, 4, 0), unit(9, 4, 1).requires_grad_()
    loss, _ = info_nce(q, k, 1e-4)
    torch.testing.assert_close(loss, F.cross_entropy(q @ k.T / 1e-4, torch.arange(9)))
    loss.backward()
    assert k.grad is not None
    assert torch.isfinite(k.grad).all()


def test_equal_features_have_the_chance_level_loss() -> None:
    same = unit(1, 4, 0).repeat(10, 1)
    loss, correct = info_nce(same, same, 0.1)
    assert loss.item() == pytest.approx(math.log(10))
    assert correct == 0  # nothing is nearer than the others


def losses_of(module: DbbdLoss, down: list[torch.Tensor], up: list[torch.Tensor], *points: torch.Tensor) -> DbbdLosses:
    return module([tuple(module.project(BranchFeatures(down, points[0]), BranchFeatures(up, points[1])))])


def test_the_total_is_weighted_and_skips_levels_with_one_row() -> None:
    torch.manual_seed(0)
    module = DbbdLoss(input_dim=6, projection_dim=4, temperature=0.2, region_weight=2.0, point_weight=0.25)
    down = [torch.randn(rows, 6) for rows in (1, 3, 8)]
    up = [torch.randn(rows, 6) for rows in (1, 3, 8)]
    points = torch.randn(2, 20, 6)
    losses = losses_of(module, down, up, *points)
    assert list(losses.levels) == [1, 2]
    assert [level.chance for level in losses.levels.values()] == [math.log(3), math.log(8)]
    torch.testing.assert_close(losses.region, (losses.levels[1].loss + losses.levels[2].loss) / 2)
    torch.testing.assert_close(losses.total, 2 * losses.region + 0.25 * losses.point)
    q, k = (F.normalize(module.region_projection.layers(x[2]), dim=1) for x in (down, up))
    torch.testing.assert_close(losses.levels[2].loss, F.cross_entropy(q @ k.T / 0.2, torch.arange(8)))
    assert losses.levels[2].top1 == ((q @ k.T).argmax(1) == torch.arange(8)).float().mean()
    q, k = (F.normalize(module.point_projection.layers(x), dim=1) for x in points)
    torch.testing.assert_close(losses.point, F.cross_entropy(q @ k.T / 0.2, torch.arange(20)))
    assert losses.point_chance == math.log(20)


def test_a_batch_without_negatives_has_loss_zero() -> None:
    module = DbbdLoss(input_dim=6, projection_dim=4)
    x = torch.randn(1, 6, requires_grad=True)
    losses = losses_of(module, [x], [x], x, x)
    losses.total.backward()
    assert losses.total == 0
    assert losses.levels == {}


def test_negatives_of_a_group_are_of_that_group() -> None:
    q, k = unit(10, 4, 0), unit(10, 4, 1)
    parts = [slice(0, 3), slice(4, 10)]  # row 3 is alone in its group

    def entropy(rows: slice, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(one[rows] @ other[rows].T / 0.2, torch.arange(rows.stop - rows.start))

    found = contrast(q, k, 0.2, groups=[3, 1, 6])
    both = [entropy(rows, q, k) for rows in parts]
    torch.testing.assert_close(found.loss, (3 * both[0] + 6 * both[1]) / 9)
    assert found.chance == pytest.approx((3 * math.log(3) + 6 * math.log(6)) / 9)
    hits = sum(int(((q[rows] @ k[rows].T).argmax(1) == torch.arange(rows.stop - rows.start)).sum()) for rows in parts)
    assert float(found.top1) == pytest.approx(hits / 9)
    one_way = contrast(q, k, 0.2, groups=[10])
    torch.testing.assert_close(one_way.loss, entropy(slice(0, 10), q, k))
    assert contrast(q, k, 0.2, groups=[1] * 10).loss > 0  # all are alone: then all are negatives


def test_several_pairs_have_the_mean_loss_and_the_accuracy_of_the_first() -> None:
    torch.manual_seed(0)
    module = DbbdLoss(input_dim=6, projection_dim=4, temperature=0.2)
    one, two = module.project(*(BranchFeatures([torch.randn(8, 6)], torch.randn(20, 6)) for _ in range(2)))
    both, first, second = module([(one, two), (two, one)]), module([(one, two)]), module([(two, one)])
    torch.testing.assert_close(both.total, (first.total + second.total) / 2)
    torch.testing.assert_close(both.levels[0].loss, (first.levels[0].loss + second.levels[0].loss) / 2)
    assert (both.levels[0].top1, both.point_top1) == (first.levels[0].top1, first.point_top1)
    assert torch.equal(both.query, one.points.vectors)
    assert torch.equal(both.key, two.points.vectors)


def test_levels_are_weighted_and_compared_with_chance() -> None:
    torch.manual_seed(0)
    module = DbbdLoss(input_dim=6, projection_dim=4, level_weights=[9.0, 2.0, 1.0], relative_to_chance=True)
    down, up = ([torch.randn(rows, 6) for rows in (1, 3, 8, 9)] for _ in range(2))
    points = torch.randn(2, 20, 6)
    losses = losses_of(module, down, up, *points)
    relative = [level.loss / level.chance for level in losses.levels.values()]
    torch.testing.assert_close(losses.region, (2 * relative[0] + relative[1] + relative[2]) / 4)
    torch.testing.assert_close(losses.total, losses.region + 0.5 * losses.point / math.log(20))


def test_levels_have_their_own_temperatures() -> None:
    torch.manual_seed(0)
    down, up = ([torch.randn(rows, 6) for rows in (5, 3, 8, 9)] for _ in range(2))
    points = torch.randn(2, 20, 6)
    module = DbbdLoss(input_dim=6, projection_dim=4, temperature=0.3, level_temperatures=[0.1, 0.2])
    losses = losses_of(module, down, up, *points)
    for number, temperature in enumerate((0.1, 0.2, 0.2, 0.2)):
        q, k = (module.region_projection(level[number]) for level in (down, up))
        torch.testing.assert_close(losses.levels[number].loss, info_nce(q, k, temperature)[0])
    torch.testing.assert_close(losses.point, info_nce(*map(module.point_projection, points), 0.3)[0])


def test_the_assignment_is_balanced_and_follows_the_scores() -> None:
    scores = unit(60, 5, 0) @ unit(4, 5, 1).T
    even = balanced_assignment(scores, 0.1, iterations=100)
    torch.testing.assert_close(even.sum(1), torch.ones(60, dtype=torch.float64))
    torch.testing.assert_close(even.sum(0), torch.full((4,), 15.0, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    # The same by repeated division, as in SwAV.
    shares = (scores / 0.1).exp()
    for _ in range(3):
        shares = shares / shares.sum(0) / 4
        shares = shares / shares.sum(1, keepdim=True)
    found = balanced_assignment(scores, 0.1)
    torch.testing.assert_close(found, shares)
    assert torch.equal(balanced_assignment(scores, 1e-4).isfinite(), torch.ones(60, 4, dtype=torch.bool))
    # Two groups of equal size: each has a prototype to itself.
    groups = torch.eye(2, dtype=torch.float64).repeat_interleave(5, dim=0)
    torch.testing.assert_close(balanced_assignment(groups, 0.02), groups)


def test_clusters_are_predicted_from_the_other_branch_by_cross_entropy() -> None:
    torch.manual_seed(0)
    student, teacher = (
        DbbdLoss(input_dim=6, projection_dim=4, kind="prototypes", num_prototypes=5, temperature=0.2) for _ in range(2)
    )
    down, up = ([torch.randn(rows, 6) for rows in (1, 7, 40)] for _ in range(2))
    points = torch.randn(2, 30, 6)
    (query,), (key,) = student.project(BranchFeatures(down, points[0])), teacher.project(BranchFeatures(up, points[1]))
    losses = student([(query, key)])
    assert list(losses.levels) == [1, 2]

    def expected(name: str, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = []
        for module, rows in ((student, one), (teacher, other)):
            prototypes = F.normalize(getattr(module, f"{name}_prototypes"), dim=1)
            scores.append(getattr(module, f"{name}_projection")(rows) @ prototypes.T)
        target = balanced_assignment(scores[1], 0.05)
        return -(target * (scores[0] / 0.2).log_softmax(1)).sum(1).mean(), (target.argmax(1) == scores[0].argmax(1))

    for number, level in losses.levels.items():
        loss, hits = expected("region", down[number], up[number])
        torch.testing.assert_close(level.loss, loss)
        assert float(level.top1) == pytest.approx(hits.float().mean().item())
        assert level.chance == math.log(5)
    torch.testing.assert_close(losses.point, expected("point", *points)[0])
    losses.total.backward()
    assert student.region_prototypes is not None
    assert student.region_prototypes.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_alignment_and_uniformity_have_their_known_values() -> None:
    q = unit(6, 4, 0)
    assert alignment(q, q) == 0
    assert alignment(q, -q).item() == pytest.approx(4)
    assert uniformity(q[:1].repeat(6, 1)).item() == pytest.approx(0, abs=2e-6)
    corners = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    # Two pairs at distance 2, four at the root of 2.
    assert uniformity(corners).item() == pytest.approx(math.log((2 * math.exp(-8) + 4 * math.exp(-4)) / 6))
    assert uniformity(corners.repeat(1000, 1)[:4001], max_rows=4).item() <= 0
    assert uniformity(corners[:1]) == 0


def test_feature_std_and_effective_rank_detect_a_collapse() -> None:
    torch.manual_seed(0)
    spread = torch.randn(4000, 8)
    assert feature_std(spread).item() == pytest.approx(1, abs=0.03)
    assert effective_rank(gram_matrix(spread)) == pytest.approx(8, abs=0.05)
    line = torch.randn(4000, 1) * torch.randn(1, 8) + 5
    assert effective_rank(gram_matrix(line)) == pytest.approx(1, abs=0.01)
    two = torch.cat([spread[:, :2], torch.zeros(4000, 6)], dim=1)
    assert effective_rank(gram_matrix(two)) == pytest.approx(2, abs=0.05)
    equal = torch.randn(1, 8).repeat(4000, 1)
    assert effective_rank(gram_matrix(equal)) == 0
    assert feature_std(equal).item() == pytest.approx(0, abs=1e-4)
    effective_rank(gram_matrix(torch.full((5, 8), math.nan)))  # does not stop the program before the loss is looked at
