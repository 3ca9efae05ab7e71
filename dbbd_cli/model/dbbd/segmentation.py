"""Segmentation: the classes of points from their own features and those of the regions that contain them.

Legend: N points, S picked points, F features of a point, P pieces of a feature, R regions of a level, L levels,
D channels of region features, H channels of the head, E members of the ensemble, K classes.
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
from dbbd_cli.model.numeric_pieces import PiecewiseCodes
from dbbd_cli.model.output import DeferredMetric, StepOutput

IGNORED = -1
"""The class of points that do not count."""
_CHUNK = 1 << 14
"""Points of a pass without gradient."""
_TINY = 1e-12


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
        self.dropout = nn.Dropout(dropout)

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

    def context(
        self, features: torch.Tensor, branches: Sequence[Sequence[torch.Tensor]], regions: RegionBatch
    ) -> list[torch.Tensor]:
        """What the regions of all levels together contribute to the first layer, `(R, H)`, for each level.

        The layers are applied to regions, of which there are far fewer than points. Each is applied to all regions,
        because below the leaf of a point, its leaf stands for the missing levels.

        Args:
            features: of all points, `(N, F)`.
            branches: for each branch, the features `(R, D)` of the regions of each level.
            regions: the trees.
        """
        parts = [F.layer_norm(torch.cat(list(levels)), levels[0].shape[1:]) for levels in branches]
        if self.region_means:
            parts.append(torch.cat(region_means(features, regions, self.codes)))
        if not parts:
            return []
        joined = torch.cat(parts, dim=1)
        return [layer(joined) for layer in self.region_layers]


class SceneSegmenter(nn.Module):
    """The encoder of DBBD, a head for points, and their loss.

    In training, each member of the ensemble has its own cross-entropy. In evaluation, probabilities are averaged, also
    with those of the forest, which is fitted to the features of training points before training and then stays as is.

    Args:
        encoder: the encoder.
        head: the head.
        branches: `both`, `g2l`, `l2g` or `none`.
        forest: joins in evaluation; None for none.
        forest_share: the weight of its probabilities.
        freeze_encoder: whether the encoder keeps its weights.
        lovasz_weight: weight of the Lovász-softmax loss.
    """

    class_counts: torch.Tensor
    class_weights: torch.Tensor

    def __init__(
        self,
        encoder: DbbdEncoder,
        head: PointHead,
        *,
        branches: str,
        forest: Forest | None = None,
        forest_share: float = 0.5,
        freeze_encoder: bool,
        lovasz_weight: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.branches = branches
        self.forest = forest
        self.forest_share = forest_share
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
            logits = self.head(*self._inputs(coord, encoder_features, head_features, regions))
            loss = self._cross_entropy(logits.float().flatten(0, 1).log_softmax(1), target.repeat(len(logits)))
            log_shares = mean_log_shares(logits)
        else:
            log_shares = self.log_shares(coord, encoder_features, head_features, regions)
            loss = self._cross_entropy(log_shares, target)
        if self.lovasz_weight > 0:
            loss = loss + self.lovasz_weight * lovasz_softmax(log_shares.exp(), target)
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
        features, context, rows = self._inputs(coord, encoder_features, head_features, regions)
        parts = [
            mean_log_shares(self.head(features[part], context, rows[:, part]))
            for part in (slice(start, start + _CHUNK) for start in range(0, len(features), _CHUNK))
        ]
        log_shares = torch.cat(parts)
        if self.forest is None:
            return log_shares
        # The trees know nothing of the weights of classes, with which the head was trained.
        weighted = self.forest(features) * self.class_weights
        weighted = weighted / weighted.sum(1, keepdim=True).clamp(min=_TINY)
        mean = log_shares.exp().lerp(weighted, self.forest_share)
        return mean.clamp(min=_TINY).log()

    def _inputs(
        self, coord: torch.Tensor, encoder_features: torch.Tensor, head_features: torch.Tensor, regions: RegionBatch
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """The arguments of the head."""
        branches = []
        trees = regions.without_picked()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            if self.branches in ("both", "g2l"):
                branches.append(self.encoder.global_to_local(coord, encoder_features, trees).regions)
            if self.branches in ("both", "l2g"):
                branches.append(self.encoder.local_to_global(coord, encoder_features, trees).regions)
        context = self.head.context(head_features, branches, trees)
        return head_features.index_select(0, regions.point), context, regions.path_rows(self.head.levels)

    def _cross_entropy(self, log_shares: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The weighted mean over the points that count; 0 if there are none."""
        total = F.nll_loss(log_shares, target, self.class_weights, ignore_index=IGNORED, reduction="sum")
        weights = torch.where(target == IGNORED, 0.0, self.class_weights[target.clamp(min=0)])
        return total / weights.sum().clamp(min=1e-6)

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
        power = {"none": 0.0, "inverse_sqrt": -0.5, "inverse": -1.0}[weighting]
        weights = torch.where(share > 0, share.clamp(min=1e-12) ** power, 0.0)
        self.class_weights = (weights / (weights * share).sum()).float()


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
