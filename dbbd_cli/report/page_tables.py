"""The tables of evaluations in the HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from dbbd_cli.report.check import PRETRAINING_TASK
from dbbd_cli.report.text import ignored_labels, number, percent, significant, visible, words

_SCORES = ("precision", "recall", "f1")
_PROBED = ("miou", "mean_accuracy", "overall_accuracy")


def evaluation_tables(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """The measures of an evaluation, and beside them what was measured for each class or level."""
    if evaluation.get("task") == PRETRAINING_TASK:
        yield _card(["Measure", "Value"], list(_pretraining_measures(evaluation)))
        yield f'<div class="stack">{"".join(_pretraining_tables(evaluation))}</div>'
        return
    yield _card(["Measure", "Value"], list(_measures(evaluation)))
    classes = evaluation.get("per_class") or []
    if classes:
        means = [{"class": f"{key} mean", **(evaluation.get(key) or {})} for key in ("macro", "weighted")]
        rows = [
            [visible(row["class"], 80), *(percent(row.get(key)) for key in _SCORES), number(row.get("support"), 0)]
            for row in [*classes, *means]
        ]
        yield _card(["Class", "Precision", "Recall", "F1", "Support"], rows, long=True)


def _card(head: Sequence[str], rows: Sequence[Sequence[str]], long: bool = False) -> str:
    kind = " long" if long else " measures" if head[0] == "Measure" else ""
    return f'<div class="card{kind}">{table(head, rows)}</div>'


def _measures(evaluation: Mapping[str, Any]) -> Iterator[list[str]]:
    for key in ("split", "checkpoint", "positive_class"):
        if evaluation.get(key) is not None:
            yield [words(key), visible(evaluation[key], 80)]
    yield ["Data", "synthetic" if evaluation.get("synthetic") else "real"]
    for key in ("epoch", "num_samples"):
        if evaluation.get(key) is not None:
            yield [words(key.removeprefix("num_")), number(evaluation[key], 0)]
    for key, shown in (("accuracy", percent), ("loss", number), ("roc_auc", number), ("average_precision", number)):
        if evaluation.get(key) is not None:
            yield [words(key), shown(evaluation[key])]
    for rate, recall in (evaluation.get("recall_at_fpr") or {}).items():
        yield [f"Recall at {100 * float(rate):g}% false positives", percent(recall)]
    if evaluation.get("expected_calibration_error") is not None:
        yield ["Expected calibration error", number(evaluation["expected_calibration_error"])]
    yield from _efficiency(evaluation.get("efficiency") or {}, "")


def _pretraining_measures(evaluation: Mapping[str, Any]) -> Iterator[list[str]]:
    for key in ("split", "checkpoint"):
        if evaluation.get(key) is not None:
            yield [words(key), visible(evaluation[key], 80)]
    yield ["Data", "synthetic" if evaluation.get("synthetic") else "real"]
    for key, name in (("epoch", "Epoch"), ("num_samples", "Scenes"), ("num_points", "Points")):
        if evaluation.get(key) is not None:
            yield [name, number(evaluation[key], 0)]
    for key in ("loss", "region_loss", "point_loss", "alignment", "uniformity", "feature_std", "effective_rank"):
        if evaluation.get(key) is not None:
            yield [words(key), number(evaluation[key])]
    probe = evaluation.get("probe") or {}
    for key in ("train_scenes", "test_scenes", "train_points", "test_points"):
        if probe.get(key) is not None:
            yield [f"Probe: {key.replace('_', ' ')}", number(probe[key], 0)]
    if evaluation.get("ignored_labels"):
        yield ["Ignored labels", visible(ignored_labels(evaluation["ignored_labels"]), 200)]
    if not probe and evaluation.get("probe_missing"):
        yield ["Probe", f"none: {visible(evaluation['probe_missing'], 200)}"]
    yield from _efficiency(evaluation.get("efficiency") or {}, "")


def _pretraining_tables(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """What was measured on each level, with each kind of features, and for each class."""
    contrast = evaluation.get("contrast") or []
    if contrast:
        rows = [
            [
                visible(row["name"], 80),
                number(row.get("rows"), 0),
                number(row.get("loss")),
                number(row.get("chance")),
                percent(row.get("top1")),
            ]
            for row in contrast
        ]
        yield _card(["Contrast", "Rows", "Loss", "Chance", "Top-1"], rows)
    probe = evaluation.get("probe") or {}
    features = probe.get("features") or []
    if not features:
        return
    names = [visible(entry["name"], 40) for entry in features]
    rows = [
        [name, number(entry.get("dim"), 0), *(percent(entry.get(key)) for key in _PROBED)]
        for name, entry in zip(names, features, strict=True)
    ]
    yield _card(["Linear probe", "Dimensions", "mIoU", "Mean accuracy", "Overall accuracy"], rows)
    if probe.get("conclusion"):
        yield f'<p class="conclusion">{escape(visible(probe["conclusion"], 1000))}</p>'
    rows = [
        [visible(name, 80), *(percent(entry["per_class_iou"][index]) for entry in features)]
        for index, name in enumerate(probe["classes"])
    ]
    if rows:
        yield _card(["IoU of each class", *names], rows, long=True)


def _efficiency(values: Mapping[str, Any], prefix: str) -> Iterator[list[str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and not prefix:
            yield from _efficiency(value, f"{name}_")
        elif isinstance(value, float):
            yield [words(name), significant(value)]
        elif isinstance(value, (int, str)):
            yield [words(name), visible(value, 80) if isinstance(value, str) else f"{value:,}"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, the first of each row its heading."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    cells = (
        "".join(_cell(name, text, index == 0) for index, (name, text) in enumerate(zip(head, row, strict=True)))
        for row in rows
    )
    body = "".join(f"<tr>{row}</tr>\n" for row in cells)
    return f"<table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def _cell(name: str, text: str, heads: bool) -> str:
    """A cell with the name of its column, which is shown on a narrow page instead of the table head."""
    kind, scope = ("th", ' scope="row"') if heads else ("td", "")
    return f'<{kind}{scope} data-name="{escape(name)}">{escape(text)}</{kind}>'
