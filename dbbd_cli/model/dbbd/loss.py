"""The contrastive and clustering losses of DBBD, and indicators of collapsed features.

Legend: R rows (regions of a level or sampled points), S sampled points, D channels, K prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from dbbd_cli.model.dbbd.encoder import BranchFeatures
from dbbd_cli.model.dbbd.layers import full_precision, two_layers

_MAX_LOGITS = 1 << 22
"""Logits in memory at once: 16 MB."""


class ProjectionHead(nn.Module):
    """Projects features to the unit sphere on which they are compared."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = two_layers(inputs, 96, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Unit vectors `(R, D)` of rows, in at least fp32."""
        return F.normalize(full_precision(self.layers(x)), dim=1)


class _InfoNCE(torch.autograd.Function):
    """Cross-entropy of `q @ k.T / temperature` with the diagonal as target, and the number of correct rows.

    Computes loss and gradient together in chunks of rows: the R x R logits never exist as a whole.
    """

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        num_rows = len(q)
        needs_grad = any(ctx.needs_input_grad)
        scaled = q / temperature
        grad_q, grad_k = torch.empty_like(q), torch.zeros_like(k)
        loss, correct = q.new_zeros(()), torch.zeros((), dtype=torch.int64, device=q.device)
        chunk = max(1, _MAX_LOGITS // num_rows)
        for first in range(0, num_rows, chunk):
            part = slice(first, first + chunk)
            logits = scaled[part] @ k.T
            target = logits.diagonal(first)
            positive = target.clone()
            # The maximum of the negatives alone: argmax takes six times as long.
            target.fill_(-math.inf)
            other = logits.amax(dim=1)
            target.copy_(positive)
            correct += (positive > other).sum()
            top = torch.maximum(positive, other)[:, None]
            positive = (positive - top[:, 0]).sum()
            total = logits.sub_(top).exp_().sum(dim=1, keepdim=True)
            loss += total.log().sum() - positive
            if needs_grad:
                # Softmax minus one at the target; dividing by the row sums is cheaper on the narrower factor.
                grad_q[part] = (logits @ k) / total - k[part]
                grad_k.addmm_(logits.T, scaled[part] / total)
                grad_k[part] -= scaled[part]
        if needs_grad:
            ctx.save_for_backward(grad_q / (num_rows * temperature), grad_k / num_rows)
        ctx.mark_non_differentiable(correct)
        return loss / num_rows, correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_loss: torch.Tensor, _grad_correct: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        grad_q, grad_k = ctx.saved_tensors
        return grad_loss * grad_q, grad_loss * grad_k, None


def info_nce(q: torch.Tensor, k: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """InfoNCE of unit vectors `(R, D)`: row i of `k` is the positive of row i of `q`, the others are negatives.

    Returns:
        The mean loss, and the number of rows whose positive is nearer than all negatives: scalars, computed in full
        precision.
    """
    with torch.autocast(q.device.type, enabled=False):
        loss, correct = _InfoNCE.apply(q, k, temperature)
    return loss, correct


@dataclass(frozen=True)
class Contrast:
    """How well rows find their positives.

    Attributes:
        loss: scalar.
        top1: top-1 accuracy, the share of rows whose positive is nearer than all negatives.
        chance: the chance-level loss, `log(R)`; with groups, the mean over rows.
    """

    loss: torch.Tensor
    top1: torch.Tensor
    chance: float


def contrast(q: torch.Tensor, k: torch.Tensor, temperature: float, *, groups: Sequence[int]) -> Contrast:
    """InfoNCE of unit vectors `(R, D)`, also within groups.

    Args:
        q: the queries.
        k: their positives, row by row.
        temperature: τ.
        groups: numbers of consecutive rows that are negatives of each other, such as the rows of a scene; a row that is
            alone in its group has no negatives, and is left out unless all are.
    """
    parts = [(one, other) for one, other in zip(q.split([*groups]), k.split([*groups]), strict=True) if len(one) > 1]
    found = []
    for one, other in parts or [(q, k)]:
        loss, correct = info_nce(one, other, temperature)
        found.append((Contrast(loss, correct / len(one), math.log(len(one))), len(one)))
    if len(found) == 1:
        return found[0][0]
    total = sum(rows for _, rows in found)
    shares = [(part, rows / total) for part, rows in found]
    return Contrast(
        torch.stack([part.loss * share for part, share in shares]).sum(),
        torch.stack([part.top1 * share for part, share in shares]).sum(),
        sum(part.chance * share for part, share in shares),
    )


class Rows(NamedTuple):
    """What is compared of regions of a level, or of points.

    Attributes:
        vectors: unit vectors `(R, D)`.
        prototypes: unit vectors `(K, D)` to which they are assigned, or None if they are compared directly.
    """

    vectors: torch.Tensor
    prototypes: torch.Tensor | None


@dataclass(frozen=True)
class Projected:
    """What a branch computes for the regions and points that are compared.

    Attributes:
        regions: the regions of each level from the root down.
        points: the points.
    """

    regions: Sequence[Rows]
    points: Rows


def clustering(query: Rows, key: Rows, temperature: float, target_temperature: float) -> Contrast:
    """How well queries predict the prototypes to which their keys are assigned, as in SwAV (Caron et al., 2020).

    Rows are alike if they share a prototype, in whatever scene they are: there are no negatives.

    Args:
        query: rows that have a gradient, with their prototypes.
        key: rows that belong to them, with theirs.
        temperature: τ of the prediction.
        target_temperature: τ of the assignment.

    Returns:
        The mean cross-entropy; as `top1` the share of rows with the same likeliest prototype; and log(K).
    """
    assert query.prototypes is not None
    assert key.prototypes is not None
    with torch.autocast(query.vectors.device.type, enabled=False):
        with torch.no_grad():
            target = balanced_assignment(key.vectors @ key.prototypes.T, target_temperature)
        logits = query.vectors @ query.prototypes.T / temperature
        loss = F.cross_entropy(logits, target)
    top1 = (logits.argmax(dim=1) == target.argmax(dim=1)).float().mean()
    return Contrast(loss, top1, math.log(len(query.prototypes)))


def balanced_assignment(scores: torch.Tensor, temperature: float, *, iterations: int = 3) -> torch.Tensor:
    """Assign rows to prototypes so that all prototypes get about equally much (Cuturi, 2013): shares `(R, K)`.

    Without balance, all rows would end at one prototype.

    Args:
        scores: similarities `(R, K)`.
        temperature: the lower, the closer is each row's assignment to a single prototype.
        iterations: how often prototypes, and then rows, are brought to equal sums.
    """
    shares = scores / temperature
    for _ in range(iterations):
        shares = shares - shares.logsumexp(dim=0, keepdim=True)
        shares = shares - shares.logsumexp(dim=1, keepdim=True)
    return shares.exp()


@dataclass(frozen=True)
class DbbdLosses:
    """All losses of a batch.

    Attributes:
        total: α · region + β · point; with local views, the mean over them and the second view. To this, the weighted
            description loss is added.
        region: weighted mean over the levels with at least two rows.
        point: the loss of the sampled points; `point_top1` and `point_chance` as for a level.
        levels: by level; levels with a single row are missing.
        query: `(S, D)` unit vectors of the points, from the G2L branch; `key` from the L2G branch.
        local: with local views, the mean of their totals. All others are of the two views alone.
        description: the description loss, if there is one.
    """

    total: torch.Tensor
    region: torch.Tensor
    point: torch.Tensor
    point_top1: torch.Tensor
    point_chance: float
    levels: dict[int, Contrast]
    query: torch.Tensor
    key: torch.Tensor
    local: torch.Tensor | None = None
    description: torch.Tensor | None = None


class DbbdLoss(nn.Module):
    """Region and point loss with their projection heads.

    Args:
        input_dim: channels of region and point features.
        projection_dim: channels in which they are compared.
        kind: `infonce`: each row is told apart from all others; `prototypes`: see `clustering`.
        num_prototypes: K, each for regions and for points.
        temperature: τ.
        level_temperatures: τ of the levels from the root down; the last one also holds for deeper levels. Empty:
            `temperature`, which is always that of points.
        target_temperature: τ of the assignment to prototypes.
        region_weight: α.
        point_weight: β.
        symmetric: whether each branch is the query in turn; by default, only G2L is.
        level_weights: relative weights of the levels from the root down; the last one also holds for deeper levels.
        relative_to_chance: whether each loss is divided by its chance level, so that levels of many regions do not
            outweigh those of few.
    """

    def __init__(
        self,
        *,
        input_dim: int = 96,
        projection_dim: int = 128,
        kind: str = "infonce",
        num_prototypes: int = 256,
        temperature: float = 0.1,
        level_temperatures: Sequence[float] = (),
        target_temperature: float = 0.05,
        region_weight: float = 1.0,
        point_weight: float = 0.5,
        level_weights: Sequence[float] = (1.0,),
        relative_to_chance: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.level_temperatures = tuple(level_temperatures) or (temperature,)
        self.target_temperature = target_temperature
        self.level_weights = tuple(level_weights)
        self.relative_to_chance = relative_to_chance
        self.region_weight = region_weight
        self.point_weight = point_weight
        self.region_projection = ProjectionHead(input_dim, projection_dim)
        self.point_projection = ProjectionHead(input_dim, projection_dim)
        clusters = kind == "prototypes"
        self.region_prototypes = _prototypes(num_prototypes, projection_dim) if clusters else None
        self.point_prototypes = _prototypes(num_prototypes, projection_dim) if clusters else None

    def project(self, *branches: BranchFeatures) -> list[Projected]:
        """Project the features of branches with the same rows to what the loss compares."""
        of_regions, of_points = (
            None if prototypes is None else F.normalize(prototypes, dim=1)
            for prototypes in (self.region_prototypes, self.point_prototypes)
        )
        levels = [
            [Rows(self.region_projection(rows), of_regions) for rows in level]
            for level in zip(*(branch.regions for branch in branches), strict=True)
        ]
        points = [Rows(self.point_projection(branch.points), of_points) for branch in branches]
        return [Projected([level[place] for level in levels], of_branch) for place, of_branch in enumerate(points)]

    def forward(
        self,
        pairs: Sequence[tuple[Projected, Projected]],
        *,
        region_groups: Sequence[Sequence[int]] | None = None,
        point_groups: Sequence[int] | None = None,
    ) -> DbbdLosses:
        """The mean losses over pairs of queries and keys, whose rows belong together.

        Args:
            pairs: the first one gives accuracies, chance levels, `query` and `key`.
            region_groups: the numbers of consecutive rows of each scene, level by level, if negatives are only from the
                same scene.
            point_groups: the same for points.
        """
        levels, weights = {}, {}
        first = pairs[0][0]
        for number, rows in enumerate(first.regions):
            groups = [len(rows.vectors)] if region_groups is None else region_groups[number]
            if max(groups) < 2:
                continue
            level = [(q.regions[number], k.regions[number]) for q, k in pairs]
            levels[number] = self._compared(level, _of_level(self.level_temperatures, number), groups)
            weights[number] = _of_level(self.level_weights, number)
        groups = [len(first.points.vectors)] if point_groups is None else point_groups
        point = self._compared([(q.points, k.points) for q, k in pairs], self.temperature, groups)
        # Without negatives the loss is zero, and its backward pass works.
        region, weight = first.points.vectors.sum() * 0.0, sum(weights.values())
        if weight and len(set(weights.values())) == 1:
            region = torch.stack([self._scaled(level) for level in levels.values()]).mean()
        elif weight:
            parts = [self._scaled(level) * (weights[number] / weight) for number, level in levels.items()]
            region = torch.stack(parts).sum()
        return DbbdLosses(
            total=self.region_weight * region + self.point_weight * self._scaled(point),
            region=region,
            point=point.loss,
            point_top1=point.top1,
            point_chance=point.chance,
            levels=levels,
            query=first.points.vectors.detach(),
            key=pairs[0][1].points.vectors.detach(),
        )

    def _compared(self, pairs: Sequence[tuple[Rows, Rows]], temperature: float, groups: Sequence[int]) -> Contrast:
        """The mean loss over pairs of queries and keys, with the accuracy of the first pair."""
        parts = [
            contrast(query.vectors, key.vectors, temperature, groups=groups)
            if query.prototypes is None
            else clustering(query, key, temperature, self.target_temperature)
            for query, key in pairs
        ]
        if len(parts) == 1:
            return parts[0]
        return replace(parts[0], loss=torch.stack([part.loss for part in parts]).mean())

    def _scaled(self, part: Contrast) -> torch.Tensor:
        return part.loss / part.chance if self.relative_to_chance and part.chance else part.loss


def _prototypes(count: int, channels: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, channels))


def _of_level(values: Sequence[float], number: int) -> float:
    """The value of a level, where the last one also holds for deeper levels."""
    return values[min(number, len(values) - 1)]


def alignment(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of positive pairs of unit vectors `(R, D)`: 0 is perfect (Wang and Isola, 2020)."""
    return (query - key).square().sum(dim=1).mean()


def uniformity(x: torch.Tensor, *, max_rows: int = 512) -> torch.Tensor:
    """Log of the mean of `exp(-2 d²)` over pairs of unit vectors `(R, D)`: 0 if all are equal, lower is better.

    Of more rows, `max_rows` evenly spaced ones are used.
    """
    x = x.float()[:: max(1, math.ceil(len(x) / max_rows))]
    if len(x) < 2:
        return x.new_zeros(())
    # Not every device has pairwise distances: d² = 2 - 2 x·y for unit vectors. Each pair counts twice.
    similarity = x @ x.T
    pairs = (similarity - 1.0).mul_(4.0).exp_().fill_diagonal_(0.0)
    return (pairs.sum() / (len(x) * (len(x) - 1))).log()


def feature_std(x: torch.Tensor) -> torch.Tensor:
    """Standard deviation over rows of features `(R, D)` scaled to unit length, times √D: 0 is collapse, 1 is ideal."""
    x = F.normalize(x.float(), dim=1)
    return x.std(dim=0, correction=0).mean() * math.sqrt(x.shape[1])


def gram_matrix(x: torch.Tensor) -> torch.Tensor:
    """Products `(D, D)` of the centered channels of features `(R, D)`; zeros if all rows are nearly equal."""
    x = x.float()
    centered = x - x.mean(dim=0)
    # Rounding errors of equal rows must not count as a direction.
    return (centered.T @ centered) * (centered.norm() > 1e-5 * x.norm())


def effective_rank(gram: torch.Tensor) -> float:
    """Exponential of the entropy of the singular values of centered features, from 1 to D (Roy, 2007).

    1 is collapse to a line; 0 means that all rows are equal.

    Args:
        gram: their `gram_matrix` `(D, D)`, on the CPU: not every device computes eigenvalues, and none without waiting.
    """
    values = torch.linalg.eigvalsh(gram.double().nan_to_num()).clamp(min=0).sqrt()
    top = float(values.amax())
    if top == 0:
        return 0.0
    values = torch.where(values > 1e-3 * top, values, 0)
    return float(torch.special.entr(values / values.sum()).sum().exp())
