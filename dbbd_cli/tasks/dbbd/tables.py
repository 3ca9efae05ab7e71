"""The tables of an evaluation of DBBD."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dbbd_cli.core.text import capitalized, counted
from dbbd_cli.report.tables import Note, Section, Table, Values, efficiency, measured, ranked
from dbbd_cli.report.text import count, number, percent, share, words

_METRICS = (
    "loss", "region_loss", "point_loss", "description_loss", "alignment", "uniformity", "feature_std", "effective_rank"
)  # fmt: skip
_SHORT_NAMES = {"random forest": "forest"}
_TARGETS = {"height": "Height", "normal": "Normal, |z|", "position": "Position, x and y"}
_SCORES = ("miou", "mean_accuracy", "overall_accuracy")


def dbbd_tables(evaluation: Mapping[str, Any], sample_unit: str) -> list[Section]:
    """The metrics, losses compared with chance, probes of the features, and the efficiency.

    Args:
        evaluation: the content of `evaluation.json`; see `DbbdEvaluation`.
        sample_unit: what samples are called: scenes.
    """
    metrics = measured(
        evaluation,
        [
            ("num_samples", capitalized(sample_unit), count),
            ("num_points", "Points", count),
            *((name, words(name), number) for name in _METRICS),
        ],
    )
    if evaluation.get("ignored_labels"):
        metrics.append(("Ignored labels", _ignored_labels(evaluation["ignored_labels"])))
    probe = evaluation.get("probe")
    points = [("train_points", "Probe: training points", count), ("test_points", "Probe: test points", count)]
    metrics += measured(probe or {}, points)
    return [
        Values("Metrics", tuple(metrics)),
        *_contrast(evaluation.get("contrast") or []),
        *_probe(probe, evaluation.get("probe_missing")),
        *_label_efficiency(evaluation.get("label_efficiency")),
        *_encoded(evaluation.get("encoded"), evaluation.get("encoded_missing")),
        *efficiency(evaluation.get("efficiency"), sample_unit),
    ]


def _ignored_labels(rows: Iterable[Mapping[str, Any]]) -> str:
    """Labels that are not classes: `255 (1,204 points)`."""
    return ", ".join(
        f"{'negative or NaN' if row.get('label') is None else row['label']} ({counted(row['points'], 'point')})"
        for row in rows
    )


def _contrast(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    if rows:
        yield Table(
            "Contrast (chance: the loss of random guessing)",
            ("", "Rows", "Loss", "Chance", "Top-1"),
            tuple(
                (
                    row["name"],
                    count(row.get("rows")),
                    number(row.get("loss")),
                    number(row.get("chance")),
                    share(row.get("top1")),
                )
                for row in rows
            ),
        )


def _probe(probe: Mapping[str, Any] | None, missing: str | None) -> Iterator[Section]:
    if not probe or not probe["features"]:
        yield Note(f"not measured: {missing}" if missing else "not measured", title="Linear probe")
        return
    features = probe["features"]
    yield Table(
        "Linear probe" + _scenes(probe),
        ("", "mIoU", "Mean acc.", "Overall acc."),
        tuple((entry["name"], *(share(entry.get(key)) for key in _SCORES)) for entry in features),
        short_columns=("", "mIoU", "Mean", "Overall"),
    )
    if probe.get("conclusion"):
        beaten = all(row["better"] == "yes" for row in probe.get("comparison") or [])
        yield Note(probe["conclusion"], warning=not beaten)
    names = [entry["name"] for entry in features]
    ious = [entry["per_class_iou"] for entry in features]
    if probe["classes"]:
        yield Table(
            "IoU by class",
            ("", *names),
            tuple((name, *map(share, row)) for name, *row in zip(probe["classes"], *ious, strict=True)),
            short_columns=("", *map(_short, names)),
            lowest="IoU",
            ranking=ranked(ious[0]),
        )


def _short(name: str) -> str:
    """The name of a kind of features for narrow columns."""
    return _SHORT_NAMES.get(name, name.partition(" ")[0])


def _scenes(probe: Mapping[str, Any]) -> str:
    if probe.get("train_scenes") is None or probe.get("test_scenes") is None:
        return ""
    return f": trained on {counted(probe['train_scenes'], 'scene')}, tested on {count(probe['test_scenes'])}"


def _label_efficiency(found: Mapping[str, Any] | None) -> Iterator[Section]:
    """One row for each number of labeled scenes, one column for each kind of features."""
    if not found or not found["curves"]:
        return
    curves = found["curves"]
    cells = {(curve["name"], point["scenes"]): point for curve in curves for point in curve["points"]}
    sizes = sorted({size for _, size in cells})
    names = [curve["name"] for curve in curves]
    rows = [(count(size), [cells.get((name, size), {}) for name in names]) for size in sizes]
    draws = max((point.get("draws") or 1 for point in cells.values()), default=1)
    title = "Label efficiency: mIoU by labeled scenes"
    yield Table(
        f"{title} (± standard deviation of {counted(draws, 'draw')})" if draws > 1 else title,
        ("Scenes", *names),
        tuple((size, *map(_with_deviation, points)) for size, points in rows),
        short_columns=("Scenes", *map(_short, names)),
        short_rows=tuple((size, *(percent(point.get("miou")) for point in points)) for size, points in rows),
        short_title=title,
    )
    if found.get("forest_missing"):
        yield Note(f"Random forest not measured: {found['forest_missing']}")


def _with_deviation(point: Mapping[str, Any]) -> str:
    mean, deviation = percent(point.get("miou")), point.get("std")
    return mean if deviation is None else f"{mean} ± {100 * deviation:.1f}"


def _encoded(found: Mapping[str, Any] | None, missing: str | None) -> Iterator[Section]:
    title = "What the features encode"
    if not found or not found["features"]:
        if missing:
            yield Note(f"not measured: {missing}", title=title)
        return
    yield Table(
        f"{title} (R² of a linear regression)",
        ("", *(_TARGETS.get(target, target) for target in found["targets"])),
        tuple((entry["name"], *(number(value, 2) for value in entry["r2"])) for entry in found["features"]),
        short_columns=("", *map(capitalized, found["targets"])),
    )
    if found.get("conclusion"):
        yield Note(found["conclusion"], warning=bool(found.get("shortcut")))
