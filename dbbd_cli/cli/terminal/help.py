"""The help texts. Plain, because Typer's help, drawn by Rich, takes 1.6 times as long (docs/performance.md)."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperCommand

from dbbd_cli.cli.terminal.streams import colored, write_result


class HelpSections:
    """Arguments, options by panel, commands and examples of a help text; the rest is Typer's."""

    def get_help_option(self: Any, ctx: Any) -> Any:
        """The option `--help`, with a callback that tolerates a closed pipe."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        option.callback = _show_help
        option.default = False  # to convert a missing value, Typer would import Pydantic
        return option

    def collect_usage_pieces(self: Any, ctx: Any) -> list[str]:
        """The arguments, named as in the list below; Typer would put them in braces."""
        arguments = [parameter.metavar for parameter in self.params if parameter.param_type_name == "argument"]
        return ["[OPTIONS]", *arguments, *(["COMMAND [ARGS]..."] if hasattr(self, "commands") else [])]

    def format_options(self: Any, ctx: Any, formatter: Any) -> None:
        """Write the sections that list arguments, options and commands."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Commands": [], "Options": []}
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                sections["Arguments"].append((parameter.metavar, parameter.help or ""))
            else:
                panel = getattr(parameter, "rich_help_panel", None) or "Options"
                name, meaning = parameter.get_help_record(ctx)
                # Long names are aligned.
                sections.setdefault(panel, []).append((name if name[1] != "-" else f"    {name}", meaning))
        for name, command in getattr(self, "commands", {}).items():
            sections["Commands"].append((name, command.help.partition("\n")[0]))
        for heading, rows in sections.items():
            if rows:
                with formatter.section(_styled(heading, bold=True)):
                    rows = [(_styled(name, fg="cyan"), meaning) for name, meaning in rows]
                    formatter.write_dl(rows, col_max=min(36, formatter.width // 2))

    def format_epilog(self: Any, ctx: Any, formatter: Any) -> None:
        """Write the examples, one per line, never broken, so that they can be copied."""
        with formatter.section(_styled("Examples", bold=True)):
            formatter.write("".join(f"  {example}\n" for example in self.epilog.split("\n")))


class Command(HelpSections, TyperCommand):
    """A command whose completion avoids slow imports."""

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


def _show_help(ctx: Any, _option: Any, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        write_result(ctx.get_help())
        ctx.exit()


def _styled(text: str, **style: Any) -> str:
    return typer.style(text, **style) if colored(sys.stdout) else text
