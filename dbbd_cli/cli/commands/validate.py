"""`dbbd validate`: loss and metrics on the validation split."""

from __future__ import annotations

from dbbd_cli.cli.options import (
    Debug,
    Device,
    Json,
    Progress,
    ProgressStyle,
    Quiet,
    Settings,
    Target,
    check_overrides,
    overrides,
)
from dbbd_cli.cli.targets import leave_removed_folder, run_or_checkpoint
from dbbd_cli.cli.terminal.console import Output

EXAMPLES = """\
dbbd validate runs/20260131-120000-qr_cnn
dbbd validate runs/20260131-120000-qr_cnn/best_model.pth --device cpu"""


def validate(
    target: Target,
    settings: Settings = None,
    device: Device = None,
    json: Json = False,
    progress: Progress = ProgressStyle.AUTO,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure loss and metrics on the validation split, compared with the logged values."""
    leave_removed_folder(target)
    run_or_checkpoint(target)
    changes = overrides(settings, {"--device": ("run.device", device)})
    check_overrides(target, changes)
    output = Output(as_json=json, style=progress, quiet=quiet)

    from dbbd_cli.cli.terminal import tables
    from dbbd_cli.services import validate as service

    output.show(service.validate(target, overrides=changes, progress=output.progress), tables.validate)
