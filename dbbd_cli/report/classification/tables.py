"""The tables of a classification report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dbbd_cli.core.text import capitalized
from dbbd_cli.report.classification.corruptions import corruption_tables
from dbbd_cli.report.tables import Note, Section, Table, Values, efficiency, measured, ranked
from dbbd_cli.report.text import count, number, percent, share, visible, with_interval

_SCORES = ("precision", "recall", "f1")
_MAX_NAME = 100
"""Characters of the name of a sample; longer ones are shortened in the middle."""
_MAX_MATRIX = 10
"""Most classes of a confusion matrix that is shown as a table."""


def classification_tables(evaluation: Mapping[str, Any], sample_unit: str) -> list[Section]:
    """The metrics, the scores of each class, the confusion matrix of a few classes, and the efficiency.

    Args:
        evaluation: the content of `evaluation.json`; see `ClassificationEvaluation`.
        sample_unit: what samples are called, such as images.
    """
    return [
        _metrics(evaluation, sample_unit),
        *_shared(evaluation, sample_unit),
        *_calibration(evaluation, sample_unit),
        *_baselines(evaluation),
        *_shortcuts(evaluation),
        *_classes(evaluation),
        *_confusion_matrix(evaluation),
        *corruption_tables(evaluation),
        *_errors(evaluation, sample_unit),
        *efficiency(evaluation.get("efficiency"), sample_unit),
    ]


def _metrics(evaluation: Mapping[str, Any], sample_unit: str) -> Values:
    intervals = evaluation.get("intervals") or {}

    def row(key: str, name: str, describe: Any) -> list[tuple[str, str]]:
        return measured(evaluation, [(key, name, lambda value: with_interval(value, intervals.get(key), describe))])

    metrics = [
        *row("num_samples", capitalized(sample_unit), count),
        *row("accuracy", "Accuracy", share),
        *row("loss", "Loss", number),
        *row("positive_class", "Positive class", str),
        *row("roc_auc", "ROC AUC", number),
        *row("average_precision", "Average precision", number),
    ]
    for rate, recall in (evaluation.get("recall_at_fpr") or {}).items():
        if recall is not None:
            bounds = (intervals.get("recall_at_fpr") or {}).get(rate)
            metrics.append((f"Recall at {100 * float(rate):g}% FPR", with_interval(recall, bounds, share)))
    metrics += row("expected_calibration_error", "Calibration error", number)
    title = "Metrics"
    if intervals.get("level") and intervals.get("groups"):
        group = {"hosts": "hosts"}.get(str(intervals.get("group")), sample_unit)
        title += f", with {intervals['level']:.0%} intervals over {count(intervals['groups'])} {group}"
        metrics.insert(
            2, ("Mean F1", with_interval((evaluation.get("macro") or {}).get("f1"), intervals.get("f1"), share))
        )
    return Values(title, tuple(metrics))


def _shared(evaluation: Mapping[str, Any], sample_unit: str) -> Iterator[Note]:
    shared, total = evaluation.get("shared_with_training"), evaluation.get("num_samples")
    if not shared or not total:
        return
    text = f"{count(shared['samples'])} of {count(total)} {sample_unit} are also in the training split"
    if shared.get("hosts") is not None:
        text += f", and {count(shared['hosts'])} have a host from it"
    yield Note(f"{text}.", warning=bool(shared["samples"] or shared.get("hosts")))


def _calibration(evaluation: Mapping[str, Any], sample_unit: str) -> Iterator[Values | Note]:
    fitted = evaluation.get("calibration") or {}
    if fitted.get("temperature") is None:
        return
    before, at = fitted.get("before") or {}, fitted.get("at_threshold") or {}
    after = (evaluation.get("intervals") or {}).get("expected_calibration_error")
    rows = [
        ("Temperature", number(fitted["temperature"], 3)),
        *_bias(evaluation, fitted),
        ("Accuracy", f"{share(before.get('accuracy'))} before, {share(evaluation.get('accuracy'))} after"),
        ("Loss", f"{number(evaluation.get('loss'))} before, {number(fitted.get('loss'))} after"),
        (
            "Calibration error before",
            with_interval(before.get("expected_calibration_error"), before.get("interval"), number),
        ),
        ("Calibration error after", with_interval(evaluation.get("expected_calibration_error"), after, number)),
    ]
    if fitted.get("threshold") is not None:
        achieved = fitted.get("achieved") or {}
        bounds = [achieved["low"], achieved["high"]] if achieved.get("low") is not None else None
        wanted = fitted.get("false_positive_rate")
        rows += [
            (
                f"Threshold for {100 * wanted:g}% FPR" if wanted is not None else "Threshold",
                number(fitted["threshold"]),
            ),
            ("FPR on validation", with_interval(achieved.get("rate"), bounds, share)),
        ]
        for key, name in (("false_positive_rate", "FPR"), ("recall", "Recall")):
            if estimate := at.get(key):
                rows.append(
                    (
                        f"{name} on these {sample_unit}",
                        with_interval(estimate.get("value"), estimate.get("interval"), share),
                    )
                )
    yield Values(f"Calibration, fitted on {count(fitted.get('num_samples'))} validation {sample_unit}", tuple(rows))
    if evaluation.get("split") == fitted.get("split"):
        yield Note(
            "The calibration was fitted on this very split: what it achieves here is too optimistic.",
            warning=True,
        )


def _bias(evaluation: Mapping[str, Any], fitted: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the biases add to the log-odds of the positive class; nothing with more than two classes."""
    biases = dict(zip(evaluation.get("classes") or [], fitted.get("bias") or [], strict=False))
    positive = fitted.get("positive_class")
    if len(biases) != 2 or positive not in biases:
        return []
    return [(f"Bias toward {visible(str(positive))}", number(2 * biases[positive] - sum(biases.values()), 3))]


def _baselines(evaluation: Mapping[str, Any]) -> Iterator[Table | Note]:
    baselines = evaluation.get("baselines") or []
    if not baselines:
        return
    intervals = evaluation.get("intervals") or {}
    network = (
        "network",
        with_interval(evaluation.get("accuracy"), intervals.get("accuracy"), percent),
        number(evaluation.get("roc_auc"), 3),
        "",
    )
    rows = [
        (
            row["name"],
            with_interval(row["accuracy"], row.get("accuracy_interval"), percent),
            number(row.get("roc_auc"), 3),
            with_interval(row.get("lead"), row.get("lead_interval"), _points),
        )
        for row in baselines
    ]
    columns = ("Classifier", "Accuracy", "ROC AUC", "The network's lead in points")
    yield Table(
        "Baselines on the same samples",
        columns,
        (*rows, network),
        short_columns=("Classifier", "Accuracy", "AUC", "Lead"),
        short_title="Baselines; evaluation.json has the intervals",
        short_rows=(
            *(
                (row["name"], percent(row["accuracy"]), number(row.get("roc_auc"), 3), _points(row.get("lead")))
                for row in baselines
            ),
            ("network", percent(evaluation.get("accuracy")), number(evaluation.get("roc_auc"), 3), ""),
        ),
    )
    close = [row["name"] for row in baselines if row.get("lead_interval") and row["lead_interval"][0] <= 0]
    if close:
        yield Note(f"The network is not clearly better than: {', '.join(close)}.", warning=True)


def _shortcuts(evaluation: Mapping[str, Any]) -> Iterator[Note]:
    clear = [row for row in evaluation.get("baselines") or [] if row.get("is_shortcut")]
    if clear:
        found = ", ".join(f"{row['name'].removeprefix('rule: ')} ({percent(row['accuracy'])})" for row in clear[::-1])
        yield Note(
            f"Trivial properties that the network could use as shortcuts: {found}; dbbd inspect says what to do.",
            warning=True,
        )


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _errors(evaluation: Mapping[str, Any], sample_unit: str) -> Iterator[Table]:
    errors = evaluation.get("errors") or []
    if errors:
        yield Table(
            "Most confident errors",
            (capitalized(sample_unit.removesuffix("s")), "Class", "Predicted", "Probability"),
            tuple(
                (visible(row["sample"], _MAX_NAME), row["class"], row["predicted"], percent(row["probability"]))
                for row in errors
            ),
            short_columns=("Sample", "Class", "Predicted", "Prob."),
        )


def _classes(evaluation: Mapping[str, Any]) -> Iterator[Table]:
    rows = evaluation.get("per_class") or []
    if not rows:
        return
    means = [(name, evaluation.get(name)) for name in ("macro", "weighted")]
    yield Table(
        "Classes",
        ("Class", "Precision", "Recall", "F1", "Support"),
        tuple((row["class"], *_scores(row), count(row["support"])) for row in rows),
        short_columns=("Class", "Prec.", "Recall", "F1", "Count"),
        footer=tuple((f"{name} mean", *_scores(scores), "") for name, scores in means if scores),
        lowest="F1",
        ranking=ranked([row.get("f1") for row in rows]),
    )


def _scores(row: Mapping[str, Any]) -> list[str]:
    return [share(row.get(key)) for key in _SCORES]


def _confusion_matrix(evaluation: Mapping[str, Any]) -> Iterator[Table]:
    names, matrix = evaluation.get("classes") or [], evaluation.get("confusion_matrix") or []
    if not matrix or len(names) > _MAX_MATRIX:
        return
    numbers = [str(index) for index in range(1, len(names) + 1)]
    yield Table(
        "Confusion matrix (rows: true class, columns: predicted class)",
        ("", *names),
        tuple((name, *map(count, row)) for name, row in zip(names, matrix, strict=True)),
        short_columns=("", *numbers),
        short_names=tuple(f"{number} {name}" for number, name in zip(numbers, names, strict=True)),
        must_fit=True,
    )
