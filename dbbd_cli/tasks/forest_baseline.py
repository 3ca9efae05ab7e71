"""A random forest as the baseline of learned features, by scikit-learn, which is optional (extra `baselines`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

TREES = 100
_MIN_LEAF = 2
NO_FOREST = "scikit-learn is not installed; pip install 'dbbd-cli[baselines]'"


def make_forest(seed: int) -> RandomForestClassifier | None:
    """A forest to be fitted; None without scikit-learn, see `NO_FOREST`."""
    try:
        from sklearn.ensemble import RandomForestClassifier  # slow to import
    except ImportError:
        return None
    return RandomForestClassifier(
        TREES, min_samples_leaf=_MIN_LEAF, n_jobs=torch.get_num_threads(), random_state=seed % 2**32
    )
