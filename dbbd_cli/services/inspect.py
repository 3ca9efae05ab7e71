"""Inspect the data of a configuration: counts, duplicates, leaks between splits, and shortcuts.

Nothing here imports PyTorch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.paths import leave_removed_folder, shown_url
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.data.manifest import SPLITS, Manifest, Sample
from dbbd_cli.data.overlap import overlap
from dbbd_cli.data.properties import Property, Relation, summary
from dbbd_cli.data.shortcuts import MARGIN, Shortcut, best_possible, chance_level, find_shortcuts
from dbbd_cli.report.drawing import draw
from dbbd_cli.report.save import check_writable, disk_error, save_figure
from dbbd_cli.report.shortcuts import shortcut_figure
from dbbd_cli.services.preparation import report_cache_folder, with_absolute_paths
from dbbd_cli.services.results import InspectResult
from dbbd_cli.tasks.registry import get_task

FIGURE = "shortcuts.png"
_GLIMPSE = 150
"""Samples of the training and of the validation split that are looked at when a run starts."""
_MAX_NAMED = 3


def inspect(config: TaskConfig, *, out: Path | None = None, progress: Progress | None = None) -> InspectResult:
    """Inspect all samples of a configuration, without training.

    Args:
        config: the configuration.
        out: folder for the figure `shortcuts.png`, created if it is missing; None: no figure is drawn.
        progress: shows bars and lines; nothing is shown by default.

    Raises:
        DbbdError: see the subclasses in `core.errors`.
    """
    progress = progress or Silent()
    config = with_absolute_paths(config)
    leave_removed_folder()
    if out is not None:
        check_writable(out)
    report_cache_folder(config, progress)
    task = get_task(config.task)
    manifest = task.make_manifest(config, progress)
    samples, positions = manifest.samples, range(len(manifest.samples))
    properties, related = task.inspect_samples(config, manifest, positions, progress, in_short=False)
    content = Relation("the same content", [sample.sha256 for sample in samples], "remove all but one of them")
    validation = manifest.of("val")
    labels = np.array([sample.label for sample in validation], dtype=np.int64)
    result = InspectResult(
        task=config.task,
        sample_unit=task.sample_unit,
        synthetic=config.is_synthetic,
        source=shown_url(config.data.path or config.data.source),
        counts=_counts(manifest),
        samples=manifest.counts(),
        skipped=len(manifest.skipped),
        properties={part.name: _by_split(part, samples) for part in properties},
        overlaps=[overlap(relation, samples) for relation in (content, *related)],
        shortcuts=_shortcuts(properties, samples, manifest),
        chance=chance_level(labels) if manifest.classes else None,
        clear_above=chance_level(labels) + MARGIN if manifest.classes else None,
        best_possible=best_possible(labels, [sample.sha256 for sample in validation]) if manifest.classes else None,
    )
    if out is not None and result.shortcuts:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(out, error) from error
        [figure] = draw({FIGURE: lambda: shortcut_figure(asdict(result))}).values()
        result.files.append(save_figure(figure, out / FIGURE))
    return result


def warn_of_shortcuts(config: TaskConfig, manifest: Manifest, progress: Progress) -> None:
    """Warn of the strongest shortcuts in real data, after a glimpse at a part of the samples.

    Args:
        config: the configuration, with absolute paths.
        manifest: its samples; nothing is done if they are synthetic or have no classes.
        progress: receives the warning.
    """
    if config.is_synthetic or not manifest.classes:
        return
    splits = np.array(manifest.columns.splits)
    positions = [
        position
        for split in ("train", "val")
        for position in _spread(np.flatnonzero(splits == split).tolist(), _GLIMPSE)
    ]
    task = get_task(config.task)
    properties, _ = task.inspect_samples(config, manifest, positions, progress, in_short=True)
    samples = [manifest.samples[position] for position in positions]
    clear = [shortcut for shortcut in _shortcuts(properties, samples, manifest) if shortcut.clear]
    if clear:
        named = ", ".join(f"{s.name} ({s.balanced_accuracy:.0%})" for s in clear[:_MAX_NAMED])
        more = f" and {len(clear) - _MAX_NAMED} more" if len(clear) > _MAX_NAMED else ""
        labels = np.array([sample.label for sample in samples if sample.split == "val"])
        progress.warn(
            f"Trivial properties alone classify {len(labels):,} validation {task.sample_unit} far better than chance "
            f"({chance_level(labels):.0%}): {named}{more}. The network may learn only these; "
            "dbbd inspect says what to do."
        )


def _shortcuts(properties: Sequence[Property], samples: Sequence[Sample], manifest: Manifest) -> list[Shortcut]:
    if not manifest.classes:
        return []
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    is_train, is_val = (np.array([sample.split == split for sample in samples]) for split in ("train", "val"))
    return find_shortcuts(properties, labels, is_train, is_val, manifest.classes)


def _spread(items: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the items, evenly spaced: samples are sorted by class, so each class gets its share."""
    if len(items) <= limit:
        return list(items)
    return [items[place * len(items) // limit] for place in range(limit)]


def _counts(manifest: Manifest) -> dict[str, dict[str, int]]:
    found = Counter(zip(manifest.columns.labels, manifest.columns.splits, strict=True))
    return {name: {split: found[label, split] for split in SPLITS} for label, name in enumerate(manifest.classes)}


def _by_split(part: Property, samples: Sequence[Sample]) -> dict[str, dict[str, object]]:
    splits = np.array([sample.split for sample in samples])
    return {split: summary(part.values[splits == split]) for split in SPLITS}
