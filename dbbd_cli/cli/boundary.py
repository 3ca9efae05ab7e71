"""The only place where errors are handled: each becomes a short block on standard error and an exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.cli.terminal.help import HelpSections
from dbbd_cli.cli.terminal.streams import colored, columns, tolerate_any_text, write_result
from dbbd_cli.cli.terminal.text import clean, wrapped
from dbbd_cli.core.compat import start_completion
from dbbd_cli.core.errors import ConfigError, DbbdError, DiskError, ExitCode, ProcessError, StoppedError
from dbbd_cli.core.processes import Member, from_environment
from dbbd_cli.core.signals import ignore_signals, received, signal_of

COMPLETION_VARIABLE = "_DBBD_COMPLETE"
"""Set by the completion scripts: Typer then prints completions instead of running a command."""

_SECONDS_TO_REPORT = 3.0
"""How long a process that leaves an error to another one waits for it."""
_DISK_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EFBIG, errno.EIO}
_DISK_ERRORS.add(getattr(errno, "EDQUOT", errno.ENOSPC))


class Program(HelpSections, TyperGroup):
    """The group of all commands. Both the entry point and Typer's test runner call its `main`."""

    def main(self, *positional: Any, **keywords: Any) -> Any:
        """Run the command line given as `args`, or else that of the process, and exit."""
        tolerate_any_text()
        completing = bool(os.environ.get(COMPLETION_VARIABLE))
        if completing:
            start_completion()
        given = positional[0] if positional else keywords.get("args")
        arguments = sys.argv[1:] if given is None else list(given)
        Output.exists = False
        try:
            # The commands find the arguments in their context.
            code = super().main(*positional, **{**keywords, "standalone_mode": False, "obj": arguments})
            if code == ExitCode.INTERRUPTED:  # Typer's code for a signal before the command began
                raise KeyboardInterrupt
            ignore_signals()
        except (Exception, KeyboardInterrupt) as error:
            ignore_signals()
            if completing:
                # Silently: the user is in the middle of typing a line.
                sys.exit(_code_of_completion(error))
            if "--debug" in arguments:
                import traceback

                with suppress(OSError):
                    typer.echo(clean("".join(traceback.format_exception(error))), err=True)
            report, member = _as_dbbd_error(error), _member()
            # All processes of a machine run into the errors of a command line.
            report.all_have_it |= not Output.exists and member.local_rank > 0
            reports = member.is_first or not report.all_have_it
            # Even if the terminal is gone, or the disk that receives the output is full, the exit code must be right.
            with suppress(DiskError):
                if "--json" in arguments and reports and (member.is_first or isinstance(report, ProcessError)):
                    keys = ("kind", "message", "details", "hint")
                    described = {key: getattr(report, key) for key in keys}
                    write_result(json.dumps({"error": {**described, "exit_code": int(report.exit_code)}}))
            with suppress(OSError):
                if reports:
                    typer.echo(_block(report, member), err=True, color=colored(sys.stderr))
            if not reports and not isinstance(report, (ProcessError, StoppedError)):
                # What has started the processes ends all as soon as one has ended: the one that reports may be slower.
                time.sleep(_SECONDS_TO_REPORT)
            code = int(report.exit_code)
        sys.exit(code or 0)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; without any, show the help."""
        if not args and not ctx.resilient_parsing:
            write_result(ctx.get_help())
            ctx.exit(ExitCode.USAGE)
        return list(super().parse_args(ctx, args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and turn a signal outside training into an error like any other."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _interrupted(error) from None


def _code_of_completion(error: BaseException) -> ExitCode:
    if isinstance(error, BrokenPipeError):  # the shell has exited
        return ExitCode.OK
    return ExitCode.DISK if isinstance(error, OSError) else ExitCode.BUG


def _as_dbbd_error(error: BaseException) -> DbbdError:
    """Turn any exception into an error that can be shown: usage errors of the parser, our own errors, and bugs."""
    if isinstance(error, DbbdError) and (received() is None or isinstance(error, StoppedError)):
        return error
    if (interrupt := _interrupt_behind(error)) is not None:
        return _interrupted(interrupt)
    describe = getattr(error, "format_message", None)
    if describe is not None:  # a usage error; its class is in `click` or Typer, depending on Typer's version
        context = getattr(error, "ctx", None)
        hint = f"`{context.command_path} --help` shows usage" if context else ""
        return ConfigError(describe().replace("Value error, ", ""), hint=hint)  # pydantic's words, by way of Typer
    # Imported late, so that start-up and usage errors stay fast.
    from dbbd_cli.core.files import repair_of
    from dbbd_cli.core.limits import is_out_of_memory, memory_advice, open_files_limit

    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        place = error.filename2 or error.filename
        where = f"{os.fsdecode(place)}: " if isinstance(place, (str, bytes)) else ""
        return DiskError(
            f"{where}{error.strerror}", hint=f"{repair_of(error)}, or choose a folder that you can write to"
        )
    if "Too many open files" in str(error):  # also if a shared library cannot be loaded
        return DiskError(str(error).splitlines()[0], hint=f"raise the limit on open files ({open_files_limit()})")
    if is_out_of_memory(error):
        return ConfigError(f"out of memory: {error}" if str(error) else "out of memory", hint=memory_advice())
    from dbbd_cli.tasks.registry import package_behind

    package = package_behind(error)
    where = f" in {package}, which provides the task" if package else ""
    return DbbdError(
        f"this is a bug{where}: please report it{' there' if package else ''} ({type(error).__name__}: {error})",
        hint="run the same command with --debug and include the traceback in the report",
    )


def _interrupted(error: BaseException) -> StoppedError:
    return StoppedError("Stopped.", signal_number=received() or signal_of(error))


def _interrupt_behind(error: BaseException | None) -> BaseException | None:
    """The signal that caused an error, if any: libraries wrap it in exceptions of their own."""
    if received() is not None:
        return error
    found: list[BaseException | None] = [error]
    for one in found:  # grows: an explicit cause does not hide the context
        if one is None or isinstance(one, KeyboardInterrupt):
            continue
        found += [other for other in (one.__cause__, one.__context__) if other not in found]
    return next((one for one in found if isinstance(one, KeyboardInterrupt)), None)


def _member() -> Member:
    try:
        return from_environment(os.environ)
    except ConfigError:  # the command reports it
        return Member()


def _block(error: DbbdError, member: Member) -> str:
    """What is wrong, one line per detail, what to do."""
    width = columns(sys.stderr)
    label, color = "Error:" if member.is_first else f"Error in process {member.rank + 1} of {member.size}:", "red"
    message = f"{label} {clean(error.message)}"
    if isinstance(error, StoppedError):
        label, color = "Stopped", "yellow"
        message = clean(error.message)
    first, *rest = wrapped(message, width)
    lines = [typer.style(label, fg=color, bold=True) + first.removeprefix(label), *rest]
    for detail in error.details:
        lines += wrapped(clean(detail), width, indent="  ")
    if error.hint:
        lines += wrapped(clean(_capitalized(error.hint)), width)
    return "\n".join(lines)


def _capitalized(hint: str) -> str:
    """The hint with a capital letter, unless it begins with a name such as `data.path` or `splits.json`."""
    return hint[:1].upper() + hint[1:] if hint.partition(" ")[0].rstrip(",:").isalpha() else hint
