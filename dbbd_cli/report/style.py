"""The common style of all figures, independent of the user's matplotlib settings.

Matplotlib is imported inside functions, because reading a run does not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.text import escaped
from dbbd_cli.report.text import visible

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ft2font import FT2Font
    from matplotlib.legend import Legend

INK = "#1f2328"
MUTED = "#59636e"
GRID = "#d8dee4"
# Not quite white: a dark page replaces it, but not the white text in dark cells.
PAPER = "#fefefe"
WARNING = "#c24a00"
HEAT = "#005a9c"
# The color-blind-safe palette of Okabe and Ito, without yellow, which is invisible on white.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")

_HEADER_INCHES = 0.72
_CAPTION_INCHES = 0.22
_MARGIN_INCHES = 0.16

# System fonts for scripts that DejaVu Sans, which ships with matplotlib, lacks.
_OTHER_FONTS = (
    "Noto Sans CJK JP",
    "PingFang HK",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "WenQuanYi Micro Hei",
    "Arial Unicode MS",
)


def styled() -> AbstractContextManager[None]:
    """A context with matplotlib's defaults and the common style."""
    import matplotlib.style

    return matplotlib.style.context(
        [
            "default",
            {
                "font.family": list(_families()),
                "font.size": 10,
                "text.color": INK,
                # Names come from data: a dollar sign is not math.
                "text.parse_math": False,
                "axes.edgecolor": GRID,
                "axes.labelcolor": MUTED,
                "axes.titlesize": 11,
                "axes.titlelocation": "left",
                "axes.titlecolor": INK,
                "axes.titlepad": 8,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "axes.formatter.useoffset": False,
                "grid.color": GRID,
                "grid.linewidth": 0.7,
                "xtick.color": GRID,
                "ytick.color": GRID,
                "xtick.labelcolor": MUTED,
                "ytick.labelcolor": MUTED,
                "lines.linewidth": 1.8,
                "lines.solid_capstyle": "round",
                "legend.frameon": False,
                "legend.labelcolor": INK,
                "legend.fontsize": 9.5,
                # Equal figures have equal bytes.
                "svg.hashsalt": "dbbd",
                "pdf.fonttype": 42,
            },
        ]
    )


def headed_figure(
    size: tuple[float, float],
    title: str,
    facts: Sequence[str],
    *,
    name: str = "",
    warning: str = "",
    caption: Sequence[str] = (),
    compress: bool = False,
) -> Figure:
    """An empty figure with a title and a line of facts under it. Text must be `drawable`.

    Args:
        size: width and height, inches.
        title: what the figure shows, ASCII.
        facts: short statements.
        name: text after the title, such as the name of a run.
        warning: ASCII text before the facts, in a warning color, such as "synthetic data"; empty for none.
        caption: lines below the facts, which make the figure taller.
        compress: keep axes of fixed aspect ratio close together.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = (size[0], size[1] + _CAPTION_INCHES * len(caption))
    top = 1 - (_HEADER_INCHES + _CAPTION_INCHES * len(caption)) / size[1]
    layout = ConstrainedLayoutEngine(
        compress=compress, rect=(0, 0, 1, top), w_pad=_MARGIN_INCHES, h_pad=_MARGIN_INCHES / 2
    )
    figure = Figure(figsize=size, dpi=150, layout=layout)
    FigureCanvasAgg(figure)  # regardless of the backend
    _write_line(figure, 0.38, title, INK, f"   {name}", 14)
    _write_line(figure, 0.63, warning, WARNING, " · ".join([*([""] if warning else []), *facts]), 10)
    for number, line in enumerate(caption, start=1):
        _write_line(figure, 0.63 + _CAPTION_INCHES * number, "", INK, line, 10, INK)
    return figure


def _write_line(
    figure: Figure, inches: float, lead: str, lead_color: str, rest: str, size: float, rest_color: str = MUTED
) -> None:
    """Write bold text followed by plain text, with its baseline `inches` below the top of the figure."""
    from matplotlib.text import Annotation

    width, height = figure.get_size_inches()
    # Only our own words are bold: fonts for other scripts often have no bold, and matplotlib would warn.
    bold = figure.text(
        _MARGIN_INCHES / width,
        1 - inches / height,
        lead,
        color=lead_color,
        fontsize=size,
        fontfamily="DejaVu Sans",
        fontweight="bold",
        va="bottom",
    )
    # Only the renderer knows where the bold text ends.
    figure.add_artist(
        Annotation(
            rest,
            xy=(1, 0),
            xycoords=bold,
            xytext=(0, 0),
            textcoords="offset points",
            color=rest_color,
            fontsize=size,
            va="bottom",
        )
    )


def add_legend(host: Figure | Axes, entries: Sequence[tuple[str, Artist]], **placement: Any) -> Legend:
    """Add a legend with exactly these entries, whose labels must be `drawable`."""
    legend = host.legend([artist for _, artist in entries], ["x"] * len(entries), **placement)
    # Matplotlib drops labels that start with an underscore, unless they are set afterwards.
    for text, (label, _) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(label)
    return legend


def drawable(text: str, limit: int = 40) -> str:
    """Text from data that a figure can show: control characters and characters without a glyph are escaped."""
    return visible("".join(char if _has_glyph(char) else escaped(char) for char in visible(text)), limit)


def _has_glyph(char: str) -> bool:
    return " " <= char <= "~" or any(font.get_char_index(ord(char)) for font in _fonts())


@cache
def _families() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in _OTHER_FONTS if name in installed))


@cache
def _fonts() -> tuple[FT2Font, ...]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return tuple(get_font(findfont(FontProperties(family=[name]))) for name in _families())
