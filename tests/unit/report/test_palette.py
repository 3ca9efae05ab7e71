"""Classes and adjacent regions differ in color."""

from __future__ import annotations

from dbbd_cli.report.palette import class_color, region_colors, rgb


def test_classes_differ_in_color() -> None:
    assert len({class_color(index) for index in range(40)} | {class_color(-1)}) == 41
    assert class_color(40) == class_color(0)
    assert rgb(["#0072b2"]).tolist() == [[0, 0x72 / 255, 0xB2 / 255]]


def test_adjacent_regions_differ_in_color() -> None:
    grid = [
        (row * 30 + column, row * 30 + column + step) for row in range(29) for column in range(29) for step in (1, 30)
    ]
    colors = region_colors(900, grid)
    assert all(colors[one] != colors[other] for one, other in grid)
    assert len(set(colors)) > 4
    everyone = [(one, other) for one in range(20) for other in range(one)]
    assert len(set(region_colors(20, everyone))) == len(set(colors))  # all colors are used if they do not suffice
