"""The result of `inspect` as text and tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from dbbd_cli.cli.terminal.layout import Parts, Rows, grid, heading, section, synthetic, verbatim
from dbbd_cli.cli.terminal.text import clean_line, wrapped
from dbbd_cli.core.paths import shown_path
from dbbd_cli.data.manifest import SPLITS
from dbbd_cli.report.text import count, percent, significant, task_title, visible
from dbbd_cli.services.results import InspectResult

_MAX_CLASSES = 20
_WIDE = 90
"""Columns that the tables with all their columns need."""
_LONGEST_VALUE = 14


def inspect(result: InspectResult, width: int | None) -> Parts:
    """What was inspected, counts, properties, overlaps, shortcuts, and what to do."""
    wide = width is None or width >= _WIDE
    rows: Rows = [
        ("Task", task_title(result.task)),
        *synthetic(result.synthetic, result.source),
        (_title(result.sample_unit), " / ".join(f"{count(result.samples[split])} {split}" for split in SPLITS)),
        *([("Skipped", count(result.skipped))] if result.skipped else []),
    ]
    parts = section("Inspection (nothing was trained)", rows, width)
    if result.counts:
        parts += _counts(result)
    if result.properties:
        names = [
            [clean_line(name), *(_value(values[split], wide) for split in SPLITS)]
            for name, values in result.properties.items()
        ]
        title = "Properties: median (range), or most frequent value and its share"
        parts += [heading(title if wide else "Properties: median, or most frequent value"), grid(["", *SPLITS], names)]
    parts += _overlaps(result, width)
    if result.shortcuts:
        parts += _shortcuts(result, wide, width)
    parts += _advice(result, width)
    if result.files:
        parts += [heading("Files"), verbatim(shown_path(path) for path in result.files)]
    return parts


def _counts(result: InspectResult) -> Parts:
    shown = list(result.counts.items())[:_MAX_CLASSES]
    rows = [
        [clean_line(name), *(count(counts[split]) for split in SPLITS), count(sum(counts.values()))]
        for name, counts in shown
    ]
    more = "" if len(shown) == len(result.counts) else f": the first {len(shown)} of {len(result.counts):,}"
    return [heading(f"Classes{more}"), grid(["", *SPLITS, "all"], rows)]


def _value(values: Mapping[str, Any], wide: bool) -> str:
    if not values:
        return "-"
    if "median" in values:
        spread = f" ({significant(values['min'])} to {significant(values['max'])})" if wide else ""
        return significant(values["median"]) + spread
    return f"{visible(values['most_frequent'], _LONGEST_VALUE)} {percent(values['share'], 0)}"


def _overlaps(result: InspectResult, width: int | None) -> Parts:
    rows = [
        [
            clean_line(found.name),
            count(found.groups),
            *([count(found.groups_across_classes)] if result.counts else []),
            count(found.groups_across_splits),
            count(found.held_out),
        ]
        for found in result.overlaps
    ]
    kinds = ["Classes", "Splits"] if result.counts else ["Splits"]
    headers = ["", "Groups", *kinds, "Leaks"]
    note = (
        f"Groups: of {result.sample_unit} that share it; {', '.join(kinds)}: groups in more than one of them; "
        f"Leaks: validation and test {result.sample_unit} that share it with one of the training split."
    )
    title = heading(f"{_title(result.sample_unit)} that share")
    return [title, grid(headers, rows), _note(note, width)]


def _shortcuts(result: InspectResult, wide: bool, width: int | None) -> Parts:
    rows: list[list[str | Text]] = []
    for found in result.shortcuts:
        style = "bold yellow" if found.clear else ""
        interval = f"{percent(found.low)} to {percent(found.high)}"
        rule = [clean_line(found.rule)] if wide else []
        rows.append([clean_line(found.name), *rule, Text(percent(found.balanced_accuracy), style=style), interval])
    headers = ["", *(["Rule"] if wide else []), "Accuracy", "95% interval"]
    note = (
        "Each property as a classifier with one rule, learned on the training split; balanced accuracy on the "
        f"validation split. Chance is {percent(result.chance)}, the best possible result "
        f"{percent(result.best_possible)}. A property is clearly above chance if its interval begins above "
        f"{percent(result.clear_above)}."
    )
    return [heading("Shortcuts"), grid(headers, rows, left=2 if wide else 1), _note(note, width)]


def _advice(result: InspectResult, width: int | None) -> Parts:
    """What to do about shortcuts, contents in several classes, and leaks."""
    clear = [found for found in result.shortcuts if found.clear]
    rows = [(", ".join(found.name for found in group), group[0].advice) for group in _grouped(clear)]
    for found in result.overlaps:
        if found.groups_across_classes and found.name == result.overlaps[0].name:
            rows.append((f"{found.name} in several classes: {count(found.groups_across_classes)}", found.advice))
        if found.held_out:
            rows.append((f"leaks by {found.name}: {percent(found.held_out_share)}", found.advice))
    if clear:
        are = "property is" if len(clear) == 1 else "properties are"
        verdict = f"{len(clear)} trivial {are} clearly above chance: a network may learn only these"
    elif result.shortcuts:
        verdict = "No trivial property is clearly above chance"
    else:
        verdict = ""
    lines = [Text(verdict, style="bold yellow" if clear else "bold green")] if verdict else []
    for name, advice in rows:
        lines += [Text("\n".join(wrapped(f"{clean_line(name)}: {clean_line(advice)}", width, "  ")))]
    return [*lines, Text("")] if lines else []


def _grouped(clear: Sequence[Any]) -> list[list[Any]]:
    """Shortcuts with the same advice together, in the order of the first of each."""
    groups: dict[str, list[Any]] = {}
    for found in clear:
        groups.setdefault(found.advice, []).append(found)
    return list(groups.values())


def _title(sample_unit: str) -> str:
    return sample_unit[:1].upper() + sample_unit[1:]


def _note(text: str, width: int | None) -> Text:
    return Text("\n".join([*wrapped(text, None if width is None else width - 1, "  "), ""]))
