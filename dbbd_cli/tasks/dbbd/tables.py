"""The tables of an evaluation of DBBD."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dbbd_cli.core.text import capitalized, counted
from dbbd_cli.report.tables import Note, Section, Table, Values, efficiency, measured, ranked
from dbbd_cli.report.text import count, number, share, words

_METRICS = ("loss", "region_loss", "point_loss", "alignment", "uniformity", "feature_std", "effective_rank")
_SCORES = ("miou", "mean_accuracy", "overall_accuracy")


def dbbd_tables(evaluation: Mapping[str, Any], sample_unit: str) -> list[Section]:
    """The metrics, losses compared with chance, the linear probe, and the efficiency.

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
            short_columns=("", *(name.partition(" ")[0] for name in names)),
            lowest="IoU",
            ranking=ranked(ious[0]),
        )


def _scenes(probe: Mapping[str, Any]) -> str:
    if probe.get("train_scenes") is None or probe.get("test_scenes") is None:
        return ""
    return f": trained on {counted(probe['train_scenes'], 'scene')}, tested on {count(probe['test_scenes'])}"
