"""Help texts: options and descriptions in two columns, or one below the other on narrow terminals.

Own code because Typer's help, drawn by Rich, takes 1.6 times as long (docs/performance.md).
"""

from __future__ import annotations

import re
import shutil
import sys
from enum import Enum
from typing import Any

import typer
from typer.core import TyperCommand

from dbbd_cli.cli.terminal.streams import colored, write_result
from dbbd_cli.cli.terminal.text import wrapped

_WIDEST = 100
"""Longer lines are hard to read."""
_TWO_COLUMNS = 64
"""On narrower terminals, a description goes below its option."""
_HEADINGS = ("Arguments", "Commands", "Options", "Output")


class Command(TyperCommand):
    """A command with our help text, whose completion avoids slow imports."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help text to the formatter."""
        formatter.write(help_text(self, ctx))

    def get_help_option(self, ctx: Any) -> Any:
        """The option `--help`."""
        return with_own_callback(super().get_help_option(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; for a completion, without converting their values.

        The conversion would import Pydantic, which takes longer than everything else in a completion.
        """
        if not ctx.resilient_parsing:
            return list(super().parse_args(ctx, args))
        given, ctx.args, _ = self.make_parser(ctx).parse_args(args=args)
        for parameter in self.get_params(ctx):
            ctx.params[parameter.name], source = parameter.consume_value(ctx, given)
            ctx.set_parameter_source(parameter.name, source)
        return list(ctx.args)


def with_own_callback(option: Any) -> Any:
    """The option `--help` with a callback that ignores a closed pipe; with Typer's own, the exit code would be 1."""
    if option is not None:
        option.callback = _show_help
    return option


def _show_help(ctx: Any, _option: Any, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        write_result(ctx.get_help())
        ctx.exit()


def help_text(command: Any, ctx: Any) -> str:
    """The help of a command or group: usage, description, arguments, commands, options, examples."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in _HEADINGS}
    for parameter in command.get_params(ctx):
        is_argument = parameter.param_type_name == "argument"
        heading = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
        sections[heading].append(_argument(parameter) if is_argument else _option(parameter))
    for name, subcommand in getattr(command, "commands", {}).items():
        sections["Commands"].append((f"  {name}", subcommand.help.partition("\n")[0]))

    arguments = [parameter.metavar for parameter in command.params if parameter.param_type_name == "argument"]
    if hasattr(command, "commands"):
        arguments.append("COMMAND [ARGS]...")
    first, *rest = wrapped(" ".join(["Usage:", ctx.command_path, "[OPTIONS]", *arguments]), width)
    lines = [_bold("Usage:") + first.removeprefix("Usage:"), *(f"  {line}" for line in rest), ""]
    for paragraph in command.help.split("\n\n"):
        lines += [*wrapped(" ".join(paragraph.split()), width - 1), ""]
    for heading, rows in sections.items():
        if rows:
            lines += [_bold(heading), *_columns(rows, width), ""]
    if command.epilog:
        lines += [_bold("Examples"), *_examples(command.epilog, width)]
    return "\n".join(lines).rstrip() + "\n"


def _argument(parameter: Any) -> tuple[str, str]:
    return f"  {parameter.metavar}", parameter.help or ""


def _option(parameter: Any) -> tuple[str, str]:
    """How the option is typed, long names aligned, and its description."""
    short = [name for name in parameter.opts if not name.startswith("--")]
    long = [name for name in parameter.opts if name.startswith("--")]
    typed = (f"  {short[0]}, " if short else "      ") + ", ".join(long)
    if parameter.metavar:
        typed += f" {parameter.metavar}"
    notes = []
    default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    if parameter.required:
        notes.append("required")
    elif default not in (None, False, (), []) and parameter.show_default:
        notes.append(f"default: {default}")
    return typed, " ".join([parameter.help or "", *(f"[{note}]" for note in notes)])


def _columns(rows: list[tuple[str, str]], width: int) -> list[str]:
    lines = []
    typed_width = max(len(typed) for typed, _ in rows) + 2
    for typed, meaning in rows:
        if width < _TWO_COLUMNS:
            lines += [f"  {_colored_option(typed.strip())}", *wrapped(meaning, width - 1, indent="      ")]
        else:
            first, *rest = wrapped(meaning, width - typed_width)
            lines.append(_colored_option(typed) + " " * (typed_width - len(typed)) + first)
            lines += [" " * typed_width + line for line in rest]
    return lines


def _examples(epilog: str, width: int) -> list[str]:
    """The examples of an epilog, one per line, broken before an option if they are too long."""
    lines = []
    for example in epilog.split("\n"):
        line = "  " + example
        while len(line) >= width and (cut := line.rfind(" --", 5, width - 1)) > 0:
            lines.append(line[:cut] + " \\")
            line = "     " + line[cut:]
        lines.append(line)
    return lines


def _bold(text: str) -> str:
    return typer.style(text, bold=True) if colored(sys.stdout) else text


def _colored_option(text: str) -> str:
    """Names of options and commands in cyan, placeholders in plain text."""
    if not colored(sys.stdout):
        return text
    return re.sub(r"(?<!\S)(--?[\w-]+|[a-z]+(?=$))", lambda match: typer.style(match.group(), fg="cyan"), text)
