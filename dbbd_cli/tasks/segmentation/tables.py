"""The tables of an evaluation of segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from dbbd_cli.core.text import capitalized
from dbbd_cli.report.tables import Note, Section, Table, Values, efficiency, measured, ranked
from dbbd_cli.report.text import count, number, share, with_interval

_SCORES = ("miou", "mean_accuracy", "overall_accuracy")


def segmentation_tables(evaluation: Mapping[str, Any], sample_unit: str) -> list[Section]:
    """The metrics, the baselines, the scores of each class, and the efficiency.

    Args:
        evaluation: the content of `evaluation.json`; see `SegmentationEvaluation`.
        sample_unit: what samples are called: scenes.
    """
    interval = evaluation.get("miou_interval")
    metrics = measured(
        evaluation,
        [
            ("num_samples", capitalized(sample_unit), count),
            ("num_points", "Points", count),
            ("ignored_points", "Points without a class", count),
            ("loss", "Loss", number),
            ("miou", "mIoU", partial(with_interval, bounds=interval, describe=share)),
            ("mean_accuracy", "Mean accuracy", share),
            ("overall_accuracy", "Overall accuracy", share),
        ],
    )
    return [
        Values("Metrics", tuple(metrics)),
        *_baselines(evaluation),
        *_classes(evaluation),
        *efficiency(evaluation.get("efficiency"), sample_unit),
    ]


def _baselines(evaluation: Mapping[str, Any]) -> Iterator[Section]:
    rows = evaluation.get("baselines") or []
    if rows:
        yield Table(
            "Compared with baselines",
            ("", "mIoU", "Mean acc.", "Overall acc."),
            tuple(
                (name, *(share(row.get(key)) for key in _SCORES))
                for name, row in [("this network", evaluation), *((row["name"], row) for row in rows)]
            ),
            short_columns=("", "mIoU", "Mean", "Overall"),
        )
        own = evaluation.get("miou")
        better = [row["name"] for row in rows if own is not None and (row.get("miou") or 0) >= own]
        if better:
            yield Note(f"The network is no better than: {', '.join(better)}.", warning=True)
    if evaluation.get("baseline_missing"):
        yield Note(f"no random forest: {evaluation['baseline_missing']}")


def _classes(evaluation: Mapping[str, Any]) -> Iterator[Table]:
    rows = evaluation.get("class_scores") or []
    if rows:
        yield Table(
            "Classes",
            ("", "IoU", "Accuracy", "Precision", "Points"),
            tuple(
                (
                    name,
                    with_interval(row.get("iou"), row.get("iou_interval"), share),
                    share(row.get("accuracy")),
                    share(row.get("precision")),
                    count(row.get("points")),
                )
                for name, row in zip(evaluation["classes"], rows, strict=True)
            ),
            lowest="IoU",
            ranking=ranked([row.get("iou") for row in rows]),
        )
