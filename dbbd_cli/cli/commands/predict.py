"""`dbbd predict`: judge new samples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dbbd_cli.cli import options
from dbbd_cli.cli.completion import complete
from dbbd_cli.cli.targets import require_run_or_checkpoint
from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.core.paths import leave_removed_folder

EXAMPLES = """\
dbbd predict runs/20260131-120000-qr_url https://example.com/login photo.jpg
dbbd predict runs/20260131-120000-qr_url --explain example.com/login.php
dbbd predict runs/20260131-120000-qr_url - --json --csv verdicts.csv < urls.txt > verdicts.jsonl
dbbd predict runs/20260131-120000-qr_cnn pictures
dbbd predict runs/20260131-120000-dbbd scans --out features --set predict.formats=[npy,ply]"""


def predict(
    target: options.Target,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Picture, 3D scene, folder of these, pattern such as *.png, CSV of URLs, URL, or - for a line each on "
            "standard input. URLs are never fetched.",
            show_default=False,
            autocompletion=complete.data,
        ),
    ],
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what in the text of each URL moved the verdict.")
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write the results to a CSV file.", autocompletion=complete.table),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the results to an HTML page.", autocompletion=complete.page),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder for the files of each scene; by default predictions in the run folder.",
            autocompletion=complete.folder,
        ),
    ] = None,
    settings: options.Settings = None,
    device: options.Device = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the results as JSON lines, one object each.", rich_help_panel=options.OUTPUT
        ),
    ] = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Judge pictures, URLs, or what the QR codes in pictures say; write the features of 3D scenes.

    Each result has the class, its calibrated probability, and the verdict at the threshold that was chosen on the
    validation split. For a scene, files with results for each point are written. Unreadable inputs are skipped
    with their reason; the exit code is then 3.

    A run folder means its best model; pass a checkpoint file to use another state.
    """
    leave_removed_folder(target, csv, html, out)
    require_run_or_checkpoint(target)
    changes = options.overrides(settings, {"--device": ("run.device", device)})
    options.check_overrides(target, changes)
    output = Output(as_json=json, style=progress, quiet=quiet)

    from dbbd_cli.cli.terminal.predictions import PredictionOutput
    from dbbd_cli.data.inputs import arguments
    from dbbd_cli.services import predict as service

    results = PredictionOutput(output.progress, inputs, explained=explain, as_json=json, csv=csv, html=html)
    predictor = service.open_predictor(target, explain=explain, out=out, overrides=changes, progress=output.progress)
    with results:
        blocks = arguments(inputs, sys.stdin.buffer)  # type: ignore[arg-type]  # a BufferedReader has read1
        for result in (result for block in blocks for result in predictor.predict(block)):
            results.add(result)
            if not results.wanted:  # nobody reads them any more
                return
        results.finish()
