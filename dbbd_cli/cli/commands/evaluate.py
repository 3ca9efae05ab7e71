"""`dbbd evaluate`: the full report on one split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dbbd_cli.cli import options
from dbbd_cli.cli.completion import complete
from dbbd_cli.cli.targets import require_run_or_checkpoint
from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.core.paths import leave_removed_folder

EXAMPLES = """\
dbbd evaluate runs/20260131-120000-qr_cnn
dbbd evaluate runs/20260131-120000-qr_cnn --split val --no-plots
dbbd evaluate runs/20260131-120000-qr_cnn --data other_urls.csv
dbbd evaluate runs/20260131-120000-qr_cnn --corruptions
dbbd evaluate runs/20260131-120000-qr_cnn --json > report.json"""


def evaluate(
    context: typer.Context,
    target: options.Target,
    split: Annotated[
        Literal["train", "val", "test"],
        typer.Option("--split", metavar="train|val|test", help="Split of the data to evaluate on."),
    ] = "test",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Write the report and figures to this folder instead of the run folder.",
            autocompletion=complete.folder,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Evaluate on all samples of another data set with the same classes: a table of URLs or images, or a "
            "folder.",
            autocompletion=complete.data,
        ),
    ] = None,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Draw no figures.")] = False,
    corruptions: Annotated[
        bool,
        typer.Option(
            "--corruptions", help="Also evaluate on rotated, blurred, noisy and otherwise corrupted pictures or codes."
        ),
    ] = False,
    corruption_samples: Annotated[
        int, typer.Option("--corruption-samples", metavar="N", min=1, help="Number of pictures to corrupt, at most.")
    ] = 400,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE|NAME",
            help="Configuration for weights that do not belong to a run.",
            autocompletion=complete.configuration,
        ),
    ] = None,
    settings: options.Settings = None,
    device: options.Device = None,
    nproc: options.SharingProcesses = None,
    json: options.Json = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Report every metric, speed and size on the test split, with figures.

    For a classifier, this includes the confusion matrix and the ROC curve; for pretraining, the losses compared with
    chance, and linear probes, on few and on all labels, compared with the same on a random encoder and on raw features.

    For a classifier, every metric has a 95% interval and stands beside baselines. A temperature that calibrates the
    probabilities and a threshold for a wanted false-positive rate (--set evaluation.false_positive_rate=0.001) are
    chosen on the validation split and stored in calibration.json.

    A run folder means its best model; pass a checkpoint file to evaluate another state.
    """
    leave_removed_folder(target, out, data)
    require_run_or_checkpoint(target)
    changes = options.overrides(settings, {"--device": ("run.device", device)})
    options.check_overrides(target, changes)
    if nproc is not None:
        options.launch(nproc, context)
    output = Output(as_json=json, style=progress, quiet=quiet, together=True)

    from dbbd_cli.cli.terminal import evaluation_table
    from dbbd_cli.services import evaluate as service

    result = service.evaluate(
        target,
        split=split,
        out=out,
        data=data,
        plots=not no_plots,
        corrupt=corruption_samples if corruptions else None,
        config=config,
        overrides=changes,
        progress=output.progress,
    )
    output.show(result, evaluation_table.evaluate)
