"""What `evaluation.json` must be like for figures and tables to be made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PRETRAINING_TASK = "dbbd"
"""What configurations and evaluations call point-cloud pretraining."""

_FORMAT = 1
# Sums over many classes must still fit into 64 bits.
_LARGEST_COUNT = 10**12
# Far beyond what float32 holds, and far from where the arithmetic of axes overflows.
_LARGEST_NUMBER = 1e100
# Means of rounded values may miss 0 and 1 by as much.
_ROUNDING = 1e-6
# More levels than this no tree has.
_MOST_ROWS = 64
_SCORES = frozenset({"precision", "recall", "f1"})


def is_count(value: Any) -> bool:
    """Whether it is a whole number of things."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT


def is_number(value: Any) -> bool:
    """Whether it is a number of a size that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= _LARGEST_NUMBER  # which NaN is not


def evaluation_problem(evaluation: Any) -> str:
    """The first thing wrong with the content of `evaluation.json`; empty where nothing is.

    Fields may be absent or null, since tasks differ in what they report; those that are there must be sound.
    """
    if not isinstance(evaluation, dict):
        return "not a JSON object"
    if evaluation.get("format") != _FORMAT:
        found = evaluation.get("format")
        shown = found if is_count(found) else "unknown"  # text of anything could be long, or nested too deeply
        return f"its format is {shown}, and this version reads format {_FORMAT}"
    fields = (*_FIELDS, *_PRETRAINING_FIELDS) if evaluation.get("task") == PRETRAINING_TASK else _FIELDS
    for key, is_right, meaning in fields:
        if evaluation.get(key) is not None and not is_right(evaluation[key]):
            return f"{key} is not {meaning}"
    matrix, classes = evaluation.get("confusion_matrix"), evaluation.get("classes") or []
    if matrix and any(len(row) != len(classes) for row in [matrix, *matrix]):
        return "confusion_matrix does not fit classes"
    curves = evaluation.get("curves") or {}
    for key, is_sound in _CURVES:
        if curves.get(key) is not None and not is_sound(curves[key]):
            return f"curves.{key} is damaged"
    return ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, list) and all(is_right(value) for value in values)


def _is_share(value: Any) -> bool:
    return is_number(value) and -_ROUNDING <= value <= 1 + _ROUNDING


def _is_share_or_null(value: Any) -> bool:
    return value is None or _is_share(value)


def _are_scores(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= _SCORES and all(map(_is_share_or_null, value.values()))


def _is_class_row(row: Any) -> bool:
    if not isinstance(row, dict):
        return False
    scores = {key: value for key, value in row.items() if key not in ("class", "support")}
    return _is_text(row.get("class")) and is_count(row.get("support")) and _are_scores(scores)


def _are_recalls(value: Any) -> bool:
    if not isinstance(value, dict) or not all(map(_is_rate, value)) or not all(map(_is_share_or_null, value.values())):
        return False
    return len({float(rate) for rate in value}) == len(value)  # "0.01" and "1e-2" would be one rate with two recalls


def _is_rate(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _are_curves(x: str, y: str, score: str) -> Callable[[Any], bool]:
    def is_curve(curve: Any) -> bool:
        if not isinstance(curve, dict) or not _is_text(curve.get("class")):
            return False
        if curve.get(score) is None:  # the class does not occur in the split
            return score in curve
        points = (curve.get(x), curve.get(y))
        return _is_share(curve[score]) and all(map(_is_list_of(_is_share), points)) and _are_aligned(*points)

    return _is_list_of(is_curve)


def _is_reliability(bins: Any) -> bool:
    if not isinstance(bins, dict):
        return False
    edges: Any = bins.get("bin_edges")
    count: Any = bins.get("count")
    means = (bins.get("confidence"), bins.get("accuracy"))
    if not _is_list_of(_is_share)(edges) or not _is_list_of(is_count)(count):
        return False
    return all(map(_is_list_of(_is_share_or_null), means)) and _are_aligned(edges[1:], count, *means)


def _is_number_or_null(value: Any) -> bool:
    return value is None or is_number(value)


def _is_count_or_null(value: Any) -> bool:
    return value is None or is_count(value)


def _are_contrasts(rows: Any) -> bool:
    return _is_list_of(_is_contrast)(rows) and len(rows) <= _MOST_ROWS


def _is_contrast(row: Any) -> bool:
    if not isinstance(row, dict) or not _is_text(row.get("name")) or not _is_share_or_null(row.get("top1")):
        return False
    measured = [row.get(key) for key in ("rows", "loss", "chance")]
    return all(map(_is_number_or_null, measured)) and (row.get("rows") or 0) >= 0


def _is_probe(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_list_of(_is_text)(value.get("classes")):
        return False
    counts = [value.get(key) for key in ("train_scenes", "test_scenes", "train_points", "test_points")]
    if not (value.get("conclusion") is None or _is_text(value["conclusion"])):
        return False
    features: Any = value.get("features")
    if not all(map(_is_count_or_null, counts)) or not _is_list_of(_are_probed)(features):
        return False
    return len(features) <= _MOST_ROWS and all(len(e["per_class_iou"]) == len(value["classes"]) for e in features)


def _are_probed(entry: Any) -> bool:
    if not isinstance(entry, dict) or not _is_text(entry.get("name")) or not _is_count_or_null(entry.get("dim")):
        return False
    shares = [entry.get(key) for key in ("miou", "mean_accuracy", "overall_accuracy")]
    return all(map(_is_share_or_null, shares)) and _is_list_of(_is_share_or_null)(entry.get("per_class_iou"))


def _is_ignored_label(row: Any) -> bool:
    if not isinstance(row, dict) or not is_count(row.get("points")):
        return False
    label = row.get("label")
    return label is None or (isinstance(label, int) and not isinstance(label, bool) and abs(label) <= _LARGEST_COUNT)


def _is_scene(value: Any) -> bool:
    if not isinstance(value, dict) or not (value.get("name") is None or _is_text(value["name"])):
        return False
    return value.get("classes") is None or _is_list_of(_is_text)(value["classes"])


def _are_aligned(*lists: Any) -> bool:
    """Whether the lists are equally long and not empty."""
    return {len(values) for values in lists} == {len(lists[0])} and len(lists[0]) > 0


_FIELDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("task", _is_text, "a text"),
    ("split", _is_text, "a text"),
    ("checkpoint", _is_text, "a text"),
    ("epoch", is_count, "a count"),
    ("num_samples", is_count, "a count"),
    ("classes", _is_list_of(_is_text), "a list of names"),
    ("positive_class", _is_text, "a name"),
    ("synthetic", lambda value: isinstance(value, bool), "true or false"),
    ("loss", is_number, "a number of usable size"),
    ("accuracy", _is_share, "a number from 0 to 1"),
    ("roc_auc", _is_share, "a number from 0 to 1"),
    ("average_precision", _is_share, "a number from 0 to 1"),
    ("expected_calibration_error", _is_share, "a number from 0 to 1"),
    ("per_class", _is_list_of(_is_class_row), "a list of scores, one entry for each class"),
    ("macro", _are_scores, "a set of scores"),
    ("weighted", _are_scores, "a set of scores"),
    ("recall_at_fpr", _are_recalls, "a recall for each false-positive rate"),
    ("confusion_matrix", _is_list_of(_is_list_of(is_count)), "a table of counts"),
    ("curves", lambda value: isinstance(value, dict), "an object"),
    ("efficiency", lambda value: isinstance(value, dict), "an object"),
)
_CURVES: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("roc", _are_curves("fpr", "tpr", "auc")),
    ("precision_recall", _are_curves("recall", "precision", "average_precision")),
    ("reliability", _is_reliability),
)
_PRETRAINING_FIELDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("num_points", is_count, "a count"),
    ("region_loss", is_number, "a number of usable size"),
    ("point_loss", is_number, "a number of usable size"),
    ("alignment", is_number, "a number of usable size"),
    ("uniformity", is_number, "a number of usable size"),
    ("feature_std", is_number, "a number of usable size"),
    ("effective_rank", is_number, "a number of usable size"),
    ("contrast", _are_contrasts, "a list of losses, one entry for each level"),
    ("probe", _is_probe, "a set of scores for each kind of features"),
    ("probe_missing", _is_text, "a text"),
    ("ignored_labels", _is_list_of(_is_ignored_label), "a list of labels with their points"),
    ("scene", _is_scene, "a name with classes"),
)
