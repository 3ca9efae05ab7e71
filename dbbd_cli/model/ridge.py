"""Ridge regression in closed form, from sums over points that are added part by part.

Legend: N points of a part, D channels of features, T target values of a point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LinearRegression:
    """A linear function of features.

    Attributes:
        weight: `(T, D)` float64.
        bias: `(T,)` float64.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """The values `(N, T)` float64 of features `(N, D)`."""
        return features.double() @ self.weight.T + self.bias


class RidgeSums:
    """The sums from which a ridge regression follows, float64 on the CPU: their size does not depend on the points.

    Args:
        num_channels: D.
        num_targets: T.
    """

    def __init__(self, num_channels: int, num_targets: int) -> None:
        self.count = 0
        self.sums = torch.zeros(num_channels + num_targets, dtype=torch.float64)
        self.products = torch.zeros(num_channels + num_targets, num_channels, dtype=torch.float64)

    def add(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Add points with features `(N, D)` and targets `(N, T)`."""
        x = features.double()
        values = torch.cat([x, targets.double()], dim=1)
        self.count += len(x)
        self.sums += values.sum(dim=0)
        self.products += values.T @ x

    def solve(self, weight_decay: float) -> LinearRegression:
        """Minimize the mean squared error plus `weight_decay` times the sum of squared weights.

        Args:
            weight_decay: greater than 0. It holds for the weights of the standardized features; the bias is free.
        """
        num_channels = self.products.shape[1]
        mean = self.sums / self.count
        covariance = self.products / self.count - mean[:, None] * mean[:num_channels]
        deviation = covariance[:num_channels].diagonal().clamp(min=0).sqrt()
        # The rounding errors of a constant channel must not become a feature.
        scale = torch.where(deviation > 1e-6 * mean[:num_channels].abs(), deviation, 1.0)
        within = covariance[:num_channels] / scale / scale[:, None]
        across = covariance[num_channels:] / scale
        within = within + weight_decay * torch.eye(num_channels, dtype=torch.float64)
        weight = torch.linalg.solve(within, across.T).T / scale
        return LinearRegression(weight, mean[num_channels:] - weight @ mean[:num_channels])


class Determination:
    """The coefficient of determination R² of predictions, over points that are added part by part.

    Args:
        num_targets: T.
    """

    def __init__(self, num_targets: int) -> None:
        self.count = 0
        self.sums = torch.zeros(3, num_targets, dtype=torch.float64)

    def add(self, predicted: torch.Tensor, targets: torch.Tensor) -> None:
        """Add the points of predictions and targets, `(N, T)` each."""
        y = targets.double()
        self.count += len(y)
        self.sums += torch.stack([(predicted - y).square().sum(dim=0), y.sum(dim=0), y.square().sum(dim=0)])

    def of(self, start: int, stop: int) -> float:
        """1 - squared errors / squared deviations from the mean, of the targets from `start` to `stop - 1` together.

        Not a number if these targets are constant.
        """
        errors, sums, squares = self.sums[:, start:stop]
        deviations = squares - sums.square() / max(self.count, 1)
        total = deviations.sum().item()
        return 1 - errors.sum().item() / total if total > 1e-9 * squares.sum().item() else float("nan")
