"""The results of the commands as text and tables.

Each function takes a result and the width of the terminal (None: not a terminal, lines may have any length).
"""

from __future__ import annotations

from functools import partial

from rich.text import Text

from dbbd_cli.cli.terminal.layout import Parts, Rows, grid, heading, listed, section, synthetic, verbatim
from dbbd_cli.cli.terminal.text import clean_line, duration, wrapped
from dbbd_cli.core.metrics import describe_with_best, metric_words, superlative
from dbbd_cli.core.paths import command_line, resume_command, shown_path
from dbbd_cli.core.text import capitalized, counted
from dbbd_cli.report.text import count, describe_metric, megabytes, number, task_title
from dbbd_cli.services.results import (
    ExportResult,
    Forecast,
    PlotResult,
    PrepareResult,
    RunFacts,
    SmokeResult,
    TrainResult,
    ValidateResult,
)


def train(result: TrainResult, width: int | None) -> Parts:
    """The data, the outcome and the files of a run, and the next commands."""
    run = shown_path(result.run)
    resume = resume_command(result.run, "--epochs", str(result.epochs * 2))
    if result.finished_before:
        how = "stopped early, after" if result.stopped_early else "has already finished its"
        message = f"This run {how} {counted(result.epochs, 'epoch')}. To train it further:"
        return [Text("\n".join(wrapped(message, width))), verbatim([resume])]
    names = dict.fromkeys([*result.facts.progress_metrics, result.metric])
    rows = [
        ("Run", run),
        *_facts(result.facts),
        ("Epochs", f"{result.epochs:,}{' (stopped early)' if result.stopped_early else ''}"),
        *(
            [("Skipped", f"{counted(result.skipped_steps, 'step')} with a non-finite loss or gradient")]
            if result.skipped_steps
            else []
        ),
        ("Total time", duration(result.seconds)),
        (
            "Best epoch",
            f"{result.best_epoch:,} ({superlative(result.metric)} validation {metric_words(result.metric)})",
        ),
        *((f"Val. {metric_words(name)}", _best(name, result)) for name in names),
        ("Best model", shown_path(result.best_model) if result.best_model else "not saved"),
        ("Checkpoint", shown_path(result.checkpoint)),
        *listed("Plots", result.plots),
    ]
    next_commands = [
        command_line("dbbd", "evaluate", run, *([] if result.facts.samples["test"] else ["--split", "val"])),
        resume,
    ]
    return [*section("Training finished", rows, width), heading("Next"), verbatim(next_commands)]


def _best(name: str, result: TrainResult) -> str:
    best = result.best_values.get(name)
    return describe_with_best(
        name, result.best.get(name), (best.epoch, best.value) if best else None, partial(describe_metric, name)
    )


def forecast(result: Forecast, width: int | None) -> Parts:
    """The time, memory and disk space that a run would take."""
    rows = [
        *_facts(result.facts),
        ("Epochs", f"{result.epochs:,}"),
        ("Time per epoch", duration(result.seconds_per_epoch)),
        ("Total time", f"about {duration(result.seconds_total)}"),
        ("Peak memory", megabytes(result.peak_memory_mb)),
        ("Checkpoint", megabytes(result.checkpoint_mb)),
        ("Disk needed", megabytes(result.disk_needed_mb)),
        ("Disk free", megabytes(result.disk_free_mb)),
        ("First loss", number(result.train_loss)),
    ]
    parts = section("Forecast (nothing was trained or saved)", rows, width)
    if result.disk_needed_mb > result.disk_free_mb:
        parts.append(Text("Not enough free disk space for this run.", style="bold red"))
    return parts


def _facts(facts: RunFacts) -> Rows:
    return [
        ("Task", task_title(facts.task)),
        *synthetic(facts.synthetic, facts.data),
        (capitalized(facts.sample_unit), facts.samples_in_words()),
        ("Batches", " / ".join(f"{number:,} {split}" for split, number in facts.batches.items())),
        *([("Skipped", f"{facts.skipped:,}; see splits.json for the reasons")] if facts.skipped else []),
        ("Model", facts.model),
        ("Parameters", count(facts.parameters)),
        ("Size", megabytes(facts.size_mb)),
        ("Device", facts.device),
        ("Precision", facts.precision),
        *facts.notes.items(),
    ]


def validate(result: ValidateResult, width: int | None) -> Parts:
    """Metrics on the validation split, compared with the values logged for the same epoch."""
    rows = [
        ("Run", shown_path(result.run)),
        ("Checkpoint", shown_path(result.checkpoint)),
        ("Epoch", f"{result.epoch:,}"),
        *synthetic(result.synthetic),
        ("Samples", count(result.num_samples)),
        ("Device", f"{result.device}, {result.precision}"),
    ]
    logged = result.logged or {}
    metrics: list[list[str | Text]] = [
        [metric_words(name), describe_metric(name, value), describe_metric(name, logged.get(name))]
        for name, value in result.metrics.items()
    ]
    return [*section("Validation", rows, width), grid(["Metric", "Now", "Logged"], metrics)]


def prepare(result: PrepareResult, width: int | None) -> Parts:
    """What was prepared, what the cache held already, and what cannot be used."""
    if not result.needed:
        return [*wrapped(f"Nothing to prepare: the task {result.task} prepares its samples as it trains.", width)]
    rows: Rows = [
        ("Task", task_title(result.task)),
        ("Data", clean_line(result.source)),
        *([("Share", f"that of one of {count(result.processes)} processes")] if result.processes > 1 else []),
        ("Prepared", f"{count(result.prepared)} in {duration(result.seconds)}"),
        ("Prepared before", count(result.cached)),
        *([("Unusable", count(len(result.problems)))] if result.problems else []),
        ("Cache", shown_path(result.cache_dir)),
    ]
    return section(f"{capitalized(result.sample_unit)}", rows, width)


def export(result: ExportResult, width: int | None) -> Parts:
    """What was written, and where."""
    rows = [
        ("Task", task_title(result.task)),
        ("Checkpoint", shown_path(result.checkpoint)),
        ("Epoch", f"{result.epoch:,}"),
        ("Weights", f"{counted(result.tensors, 'tensor')}, {megabytes(result.size_mb)}"),
        ("File", shown_path(result.file)),
    ]
    return section("Exported", rows, width)


def plot(result: PlotResult, width: int | None) -> Parts:
    """The files that were written, one path per line."""
    return [verbatim([shown_path(path) for path in result.files], indent="")]


def smoke(result: SmokeResult, width: int | None) -> Parts:
    """The steps of each task with their times, and the verdict."""
    wide = width is None or width >= 64
    title = f"Smoke test{' on synthetic data' if result.synthetic else ''}"
    parts = section(title, [("Device", result.device), ("Precision", result.precision)], width)
    for task in dict.fromkeys(step.task for step in result.steps):
        steps = [step for step in result.steps if step.task == task]
        rows: list[list[str | Text]] = []
        for step in steps:
            verdict = Text("pass", style="green") if step.passed else Text("FAIL", style="bold red")
            details = [clean_line(step.detail)] if wide else []
            rows.append([verdict, Text(duration(step.seconds), justify="right"), clean_line(step.name), *details])
        headers = ["", "Time", "Step", "Detail"] if wide else ["", "Time", "Step"]
        parts += [heading(task_title(task)), grid(headers, rows, left=4)]
        if not wide:
            parts += [
                Text(f"  {clean_line(step.name)}: {clean_line(step.detail)}\n") for step in steps if not step.passed
            ]
    failed = sum(not step.passed for step in result.steps)
    if failed:
        verdict = Text(f"{failed} of {counted(len(result.steps), 'step')} failed", style="bold red")
    else:
        verdict = Text(f"All {counted(len(result.steps), 'step')} passed", style="bold green")
    verdict.append(f" in {duration(result.seconds)}", style="not bold default")
    return [*parts, verdict, verbatim([f"Runs in {shown_path(result.run)}"], indent="")]
