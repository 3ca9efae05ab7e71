"""Compare the probe on pretrained features with the others, in numbers and in words.

Legend: S scenes, K classes, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dbbd_cli.core.text import counted
from dbbd_cli.data.random_numbers import BOOTSTRAP, uniform

RESAMPLES = 1000
_FEW_SCENES = 10
"""With fewer scenes than this, intervals are unreliable."""
_PERCENTILES = (2.5, 97.5)
_VERBS = {
    "yes": "Pretraining beat",
    "no": "Pretraining did not beat",
    "unclear": "It is unclear whether pretraining beat",
}
_IN_WORDS = {"random encoder": "a random encoder", "raw features": "the raw features"}


def compare(counts: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Compare the mIoU of the first features with that of each of the others.

    Confidence intervals of the differences are bootstrapped over scenes, with the same resamples for all features.

    Args:
        counts: counts of each kind of features, `(S, 3, K)`: for each scene and class, correct points, labeled points
            and predicted points.
        seed: seed of the resamples.

    Returns:
        `comparison`: for each of the others, the difference, its 95% interval (None for a single scene) and whether
        pretraining was better; and `conclusion`, the same in words.
    """
    names = list(counts)
    num_scenes = len(counts[names[0]])
    draws = (uniform(seed, 0, np.arange(RESAMPLES), num_scenes, purpose=BOOTSTRAP) * num_scenes).astype(np.int64)
    weights = np.stack([np.bincount(draw, minlength=num_scenes) for draw in draws])
    scores = {name: _miou(values.sum(axis=0)[None])[0] for name, values in counts.items()}
    resampled = {
        name: _miou(np.einsum("bs,sjk->bjk", weights, values, optimize=True)) for name, values in counts.items()
    }
    rows = []
    for name in names[1:]:
        difference = float(scores[names[0]] - scores[name])
        interval = [None, None]
        if num_scenes > 1:
            interval = np.nanpercentile(resampled[names[0]] - resampled[name], _PERCENTILES).tolist()
        low, high = interval
        better = "no" if difference <= 0 else "yes" if low is not None and low > 0 else "unclear"
        rows.append({"with": name, "miou_difference": difference, "low": low, "high": high, "better": better})
    return {"comparison": rows, "conclusion": _conclusion(rows, num_scenes)}


def _miou(counts: np.ndarray) -> np.ndarray:
    """Mean IoU `(B,)` over the classes with labels, from counts `(B, 3, K)`; NaN if there are none."""
    correct, labeled, predicted = counts.astype(np.float64).transpose(1, 0, 2)
    occurs = labeled > 0
    iou = np.divide(correct, labeled + predicted - correct, out=np.zeros_like(correct), where=occurs)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = iou.sum(axis=1) / occurs.sum(axis=1)
    return means


def _conclusion(rows: Sequence[Mapping[str, Any]], num_scenes: int) -> str:
    sentences = []
    for row in rows:
        what = _IN_WORDS.get(row["with"], row["with"])
        difference, verb = row["miou_difference"], _VERBS[row["better"]]
        how = "the same" if not difference else "the same within 0.1 percentage points"
        if abs(difference) >= 0.0005:
            how = f"{'higher' if difference > 0 else 'lower'} by {100 * abs(difference):.1f} percentage points"
        if row["low"] is not None:
            how += f" (95% interval {100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
        sentences.append(f"{verb} {what}: its mIoU is {how}.")
    if num_scenes == 1:
        sentences.append("With labels in only one test scene, it is unknown how much of this is chance.")
    else:
        few = ", too few for reliable intervals" if num_scenes < _FEW_SCENES else ""
        sentences.append(f"The intervals come from resampling the {counted(num_scenes, 'test scene')}{few}.")
    return " ".join(sentences)
