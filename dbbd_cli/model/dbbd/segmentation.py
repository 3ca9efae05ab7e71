"""Segmentation: the classes of points from their own features and those of the regions that contain them.

Legend: N points, S picked points, F features of a point, P pieces of a feature, R regions of a level, L levels,
D channels of region features, H channels of the head, E members of the ensemble, J features of a region, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from dbbd_cli.model.dbbd.encoder import DbbdEncoder
from dbbd_cli.model.dbbd.regions import RegionBatch, region_means
from dbbd_cli.model.forest import Forest
from dbbd_cli.model.linear_probe import fit_probe
from dbbd_cli.model.numeric_pieces import PiecewiseCodes
from dbbd_cli.model.output import DeferredMetric, StepOutput
from dbbd_cli.model.processes import Dropout, added, counting, gathered, part_of_whole

IGNORED = -1
"""The class of points that do not count."""
_CHUNK = 1 << 14
"""Points of a pass without gradient."""
_TINY = 1e-12
_NEVER = -1e4
"""The logit of a class that never occurs; infinity is for damaged weights."""
_WEIGHT_DECAY = 0.01
"""Of the linear classifier; strong, because the labels come from few scenes with similar points."""
_POWER = {"none": 0.0, "inverse_sqrt": -0.5, "inverse": -1.0}
"""The power of the frequency of a class that is its weight."""


class PointHead(nn.Module):
    """An ensemble of small networks that shares most of its weights and classifies points.

    Each feature of a point is encoded piecewise linearly. Besides its own features, a point has those of the regions
    that contain it: the mean of the encoded features of their points, and what an encoder makes of them. The members
    share the linear layers and differ in how they scale what comes out of them (after Gorishniy et al., "TabM", 2025).

    Args:
        feature_dim: F.
        num_pieces: P.
        levels: levels of the tree whose regions count, ascending.
        region_means: whether the means over regions come in.
        region_dim: D.
        num_branches: branches of the encoder whose region features come in, possibly none.
        hidden_dim: H.
        members: E.
        num_classes: K.
        dropout: dropout probability.
    """

    def __init__(
        self,
        *,
        feature_dim: int,
        num_pieces: int,
        levels: Sequence[int],
        region_means: bool,
        region_dim: int,
        num_branches: int,
        hidden_dim: int,
        members: int,
        num_classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.codes = PiecewiseCodes(feature_dim, num_pieces)
        inputs = self.codes.num_codes
        # One linear layer on the concatenation of everything, in parts.
        self.layer1 = nn.Linear(inputs, hidden_dim)
        self.region_layers = nn.ModuleList(
            nn.Linear(region_dim * num_branches + inputs * region_means, hidden_dim, bias=False) for _ in self.levels
        )
        self.region_means = region_means
        self.scale1 = nn.Parameter(torch.empty(members, hidden_dim).normal_(1, 0.5))
        self.layer2 = nn.Linear(hidden_dim, hidden_dim)
        self.scale2 = nn.Parameter(torch.randint(0, 2, (members, hidden_dim)).float() * 2 - 1)
        self.output = nn.Parameter(torch.randn(members, hidden_dim, num_classes) / math.sqrt(hidden_dim))
        self.bias = nn.Parameter(torch.zeros(members, num_classes))
        self.dropout = Dropout(dropout, dim=1)

    def forward(self, features: torch.Tensor, context: Sequence[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """Returns the logits of all members, `(E, S, K)`.

        Args:
            features: `(S, F)`.
            context: what `context` returned.
            rows: the region of each point on each level, `(L, S)`, as a row in the regions of all levels together.
        """
        x = self.layer1(self.codes(features))
        for regions, row in zip(context, rows, strict=True):
            x = x + regions.index_select(0, row)
        x = self.dropout(F.relu(x * self.scale1[:, None]))
        x = self.dropout(F.relu(self.layer2(x * self.scale2[:, None])))
        return x @ self.output + self.bias[:, None]

    def context(self, regions: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the regions of all levels together contribute to the first layer, `(R, H)`, for each level.

        The layers are applied to regions, of which there are far fewer than points. Each is applied to all regions,
        because below the leaf of a point, its leaf stands for the missing levels.

        Args:
            regions: parts of their features, `(R, …)` each; see `SceneSegmenter`.
        """
        if not regions:
            return []
        joined = torch.cat(list(regions), dim=1)
        return [layer(joined) for layer in self.region_layers]


class LinearHead(nn.Module):
    """A linear classifier of points, from the same inputs as `PointHead`, fitted before training.

    With few labeled scenes it is better than the network; see docs/dbbd.md.

    Args:
        point_dim: codes of a point.
        region_dim: J.
        num_levels: L.
        num_classes: K.
    """

    of_point: torch.Tensor
    of_regions: torch.Tensor
    bias: torch.Tensor

    def __init__(self, *, point_dim: int, region_dim: int, num_levels: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("of_point", torch.zeros(num_classes, point_dim))
        self.register_buffer("of_regions", torch.zeros(num_levels, num_classes, region_dim))
        self.register_buffer("bias", torch.zeros(num_classes))

    @property
    def num_inputs(self) -> int:
        """Features of a point and its regions."""
        return self.of_point.shape[1] + self.of_regions.shape[0] * self.of_regions.shape[2]

    def context(self, regions: torch.Tensor | None) -> list[torch.Tensor]:
        """What regions `(R, J)` of all levels together, if any, contribute to the logits, `(R, K)`, for each level."""
        return [] if regions is None else [F.linear(regions, weight) for weight in self.of_regions]

    def forward(self, codes: torch.Tensor, context: Sequence[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """Returns the logits `(S, K)`.

        Args:
            codes: of the points, `(S, codes)`.
            context: what `context` returned.
            rows: the region of each point on each level, `(L, S)`.
        """
        logits = F.linear(codes, self.of_point, self.bias)
        for regions, row in zip(context, rows, strict=False):  # without features of regions, there is no context
            logits = logits + regions.index_select(0, row)
        return logits

    def fit(self, codes: torch.Tensor, regions: torch.Tensor, classes: torch.Tensor, *, balance: float) -> None:
        """Minimize the cross-entropy of points, weighted by class; see `fit_probe`.

        Args:
            codes: of the points, `(N, codes)`.
            regions: the features of their regions, level by level, `(N, L, J)`.
            classes: of the points, `(N,)`.
            balance: the power of the frequency of a class by which its weight falls.
        """
        num_levels, num_classes, region_dim = self.of_regions.shape
        x = torch.cat([codes, regions.flatten(1)], dim=1)
        probe = fit_probe(x, classes, num_classes, balance=balance, weight_decay=_WEIGHT_DECAY)
        weight = probe.weight / probe.scale
        self.bias = (probe.bias - weight @ probe.mean).clamp(min=_NEVER)
        self.of_point = weight[:, : codes.shape[1]].contiguous()
        of_regions = weight[:, codes.shape[1] :].view(num_classes, num_levels, region_dim)
        self.of_regions = of_regions.transpose(0, 1).contiguous()


class SceneSegmenter(nn.Module):
    """The encoder of DBBD, a head for points, and their loss.

    In training, each member of the ensemble has its own cross-entropy. In evaluation, probabilities are averaged, also
    with those of the forest and of the linear classifier, which are fitted to training points before training and then
    stay as they are.

    Args:
        encoder: the encoder.
        head: the head.
        branches: `both`, `g2l`, `l2g` or `none`.
        forest: joins in evaluation; None for none.
        forest_share: the weight of its probabilities.
        linear: joins in evaluation, too; None for none.
        linear_share: the weight of its probabilities, compared with those of all others.
        freeze_encoder: whether the encoder keeps its weights.
        lovasz_weight: weight of the Lovász-softmax loss.
    """

    class_counts: torch.Tensor
    class_weights: torch.Tensor
    skips_parameters = True
    """Not every configuration uses both branches of the encoder."""

    def __init__(
        self,
        encoder: DbbdEncoder,
        head: PointHead,
        *,
        branches: str,
        forest: Forest | None = None,
        forest_share: float = 0.5,
        linear: LinearHead | None = None,
        linear_share: float = 0.5,
        freeze_encoder: bool,
        lovasz_weight: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.branches = branches
        self.forest = forest
        self.forest_share = forest_share
        self.linear = linear
        self.linear_share = linear_share
        self.freeze_encoder = freeze_encoder
        self.lovasz_weight = lovasz_weight
        self.num_classes = head.bias.shape[1]
        self.register_buffer("class_counts", torch.zeros(self.num_classes))
        self.register_buffer("class_weights", torch.ones(self.num_classes))
        if freeze_encoder:
            encoder.requires_grad_(False)

    def forward(
        self,
        coord: torch.Tensor,
        encoder_features: torch.Tensor,
        head_features: torch.Tensor,
        regions: RegionBatch,
        classes: torch.Tensor,
    ) -> StepOutput:
        """Loss and metrics of the picked points; for the arguments, see `log_shares`, and `classes` is `(N,)`."""
        target = classes.index_select(0, regions.point)
        if self.training:
            features, parts, rows = self._inputs(coord, encoder_features, head_features, regions)
            logits = self.head(features, self.head.context(parts), rows)
            loss = self._cross_entropy(logits.float().flatten(0, 1).log_softmax(1), target.repeat(len(logits)))
            log_shares = mean_log_shares(logits)
        else:
            log_shares = self.log_shares(coord, encoder_features, head_features, regions)
            loss = self._cross_entropy(log_shares, target)
        if self.lovasz_weight > 0:
            lovasz = lovasz_softmax(gathered(log_shares.exp()), gathered(target))
            loss = loss + self.lovasz_weight * part_of_whole(lovasz)
        metrics: dict[str, torch.Tensor | DeferredMetric] = {
            "counts": class_counts(log_shares.argmax(1), target, self.num_classes)
        }
        return StepOutput(loss=loss, metrics=metrics, num_samples=regions.num_scenes)

    def log_shares(
        self, coord: torch.Tensor, encoder_features: torch.Tensor, head_features: torch.Tensor, regions: RegionBatch
    ) -> torch.Tensor:
        """Logarithms of the probabilities of the picked points, `(S, K)`, computed in chunks.

        Args:
            coord: `(N, 3)`.
            encoder_features: what the encoder sees of each point, `(N, C)`.
            head_features: what the head sees of each point, `(N, F)`.
            regions: the trees.
        """
        features, parts, rows = self._inputs(coord, encoder_features, head_features, regions)
        context = self.head.context(parts)
        chunks = [slice(start, start + _CHUNK) for start in range(0, len(features), _CHUNK)]
        log_shares = torch.cat([mean_log_shares(self.head(features[part], context, rows[:, part])) for part in chunks])
        if self.forest is None and self.linear is None:
            return log_shares
        mean = log_shares.exp()
        if self.forest is not None:
            mean = mean.lerp(self._weighted(self.forest(features)), self.forest_share)
        if self.linear is not None:
            context = self.linear.context(self._of_linear(parts))
            logits = [self.linear(self.head.codes(features[part]), context, rows[:, part]) for part in chunks]
            mean = mean.lerp(self._weighted(torch.cat(logits).float().softmax(1)), self.linear_share)
        return mean.clamp(min=_TINY).log()

    def _weighted(self, shares: torch.Tensor) -> torch.Tensor:
        """Probabilities `(S, K)` with the weights of classes, of which trees and linear classifier know nothing."""
        weighted = shares * self.class_weights
        return weighted / weighted.sum(1, keepdim=True).clamp(min=_TINY)

    def linear_inputs(
        self,
        coord: torch.Tensor,
        encoder_features: torch.Tensor,
        head_features: torch.Tensor,
        regions: RegionBatch,
        chosen: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the linear classifier is fitted to for some of the picked points.

        Args:
            coord: `coord` and the next three are those of `log_shares`.
            encoder_features: see above.
            head_features: see above.
            regions: see above.
            chosen: numbers of picked points, `(n,)`.

        Returns:
            The codes of the points, `(n, codes)`, and the features of their regions, `(n, L, J)`.
        """
        # An encoder that learns is not an input, and computing it takes most of the time.
        inputs = self._inputs(coord, encoder_features, head_features, regions, with_encoder=self.freeze_encoder)
        features, parts, rows = inputs
        codes = self.head.codes(features[chosen])
        joined = self._of_linear(parts)
        return codes, codes.new_zeros(len(codes), 0, 0) if joined is None else joined[rows[:, chosen].T]

    def _of_linear(self, parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """The features of regions that the linear classifier sees, `(R, J)`: all that training does not change."""
        lasting = parts if self.freeze_encoder else parts[len(parts) - self.head.region_means :]
        return torch.cat(list(lasting), dim=1) if lasting else None

    def _inputs(
        self,
        coord: torch.Tensor,
        encoder_features: torch.Tensor,
        head_features: torch.Tensor,
        regions: RegionBatch,
        *,
        with_encoder: bool = True,
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """The features of the picked points, those of regions in parts, and the regions of each point.

        The regions are those of all levels together: for each branch `(R, D)`, and the means of the codes of their
        points, `(R, codes)`.
        """
        parts = []
        trees = regions.without_picked()
        branches = self.branches if with_encoder else "none"
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            if branches in ("both", "g2l"):
                parts.append(_normalized(self.encoder.global_to_local(coord, encoder_features, trees).regions))
            if branches in ("both", "l2g"):
                parts.append(_normalized(self.encoder.local_to_global(coord, encoder_features, trees).regions))
        if self.head.region_means:
            parts.append(torch.cat(region_means(head_features, trees, self.head.codes)))
        rows = regions.path_rows(self.head.levels)
        return head_features.index_select(0, regions.point), parts, rows if parts else rows[:0]

    def _cross_entropy(self, log_shares: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The weighted mean over the points that count, or what is added to that of all processes; 0 if none do."""
        total = F.nll_loss(log_shares, target, self.class_weights, ignore_index=IGNORED, reduction="sum")
        weights = torch.where(target == IGNORED, 0.0, self.class_weights[target.clamp(min=0)])
        return counting(total) / added(weights.sum()).clamp(min=1e-6)

    def fit(
        self, head_features: torch.Tensor, classes: torch.Tensor, counts: torch.Tensor, *, weighting: str, seed: int
    ) -> None:
        """Set what depends on the training data as a whole.

        Args:
            head_features: of some training points, `(N, F)`.
            classes: of these points, `(N,)`.
            counts: training points of each class, `(K,)`.
            weighting: `none`, `inverse_sqrt` or `inverse`: the power of the frequency that is a class's weight.
            seed: seed of the forest.
        """
        self.head.codes.fit(head_features)
        if self.forest is not None:
            self.forest.fit(head_features, classes, seed)
        self.class_counts = counts.float()
        share = counts.double() / counts.sum()
        power = _POWER[weighting]
        weights = torch.where(share > 0, share.clamp(min=1e-12) ** power, 0.0)
        self.class_weights = (weights / (weights * share).sum()).float()


def _normalized(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """The features of the regions of all levels together, `(R, D)`, each with mean 0 and deviation 1."""
    return F.layer_norm(torch.cat(list(levels)), levels[0].shape[1:])


def mean_log_shares(logits: torch.Tensor) -> torch.Tensor:
    """Logarithms of the mean probabilities `(S, K)` of members with logits `(E, S, K)`."""
    return logits.float().log_softmax(2).logsumexp(0) - math.log(len(logits))


def class_counts(predicted: torch.Tensor, target: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Correct, labeled and predicted points of each class, one after the other, `(3K,)`.

    Args:
        predicted: `(S,)`.
        target: `(S,)`; points with `IGNORED` do not count.
        num_classes: K.
    """
    counts = (target != IGNORED).float()
    label = target.clamp(min=0)
    places = torch.cat([label, label + num_classes, predicted + 2 * num_classes])
    values = torch.cat([counts * (predicted == target), counts, counts])
    return values.new_zeros(3 * num_classes).index_add_(0, places, values)


def lovasz_softmax(shares: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The Lovász-softmax loss over the classes that occur (Berman et al., 2018, algorithm 1); 0 if none does.

    Args:
        shares: probabilities `(S, K)`.
        target: `(S,)`; points with `IGNORED` do not count.
    """
    counts = target != IGNORED
    shares, target = shares[counts], target[counts]
    losses = []
    for label in target.unique().tolist():
        is_label = (target == label).to(shares.dtype)
        error, order = (is_label - shares[:, label]).abs().sort(descending=True)
        hits = is_label[order]
        intersection = hits.sum() - hits.cumsum(0)
        union = hits.sum() + (1 - hits).cumsum(0)
        jaccard = 1 - intersection / union
        losses.append((error * jaccard.diff(prepend=jaccard.new_zeros(1))).sum())
    return torch.stack(losses).mean() if losses else shares.sum() * 0
