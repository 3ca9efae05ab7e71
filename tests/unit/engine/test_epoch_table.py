"""Rows of the epoch table line up with their heading and fit a narrow terminal."""

from __future__ import annotations

from typing import Any

from dbbd_cli.engine.epoch_table import EpochTable


def epoch(number: int, train: dict[str, float], val: dict[str, float], rate: float) -> dict[str, Any]:
    return {"epoch": number, "train": train, "val": val, "learning_rate": rate}


def test_rows_line_up_with_their_heading_and_fit_a_narrow_terminal() -> None:
    table = EpochTable(10, ["loss", "accuracy"])
    train, val = {"loss": 0.6843, "accuracy": 0.6263}, {"loss": 0.6295, "accuracy": 1.0}
    rows = [table.row(epoch(number, train, val, 1e-6 * number), seconds=50.0 * number) for number in (1, 10)]
    assert table.heading().split() == ["epoch", "train", "loss", "accuracy", "val", "loss", "accuracy", "lr", "time"]
    assert rows[0].split() == ["1/10", "0.6843", "62.63%", "0.6295", "100.00%", "1e-06", "50.0", "s"]
    assert rows[1].endswith("8.3 min")
    assert len({len(line) for line in (*rows, table.heading())}) == 1
    assert len(rows[0]) + len("  best saved") <= 80
    for word in ("train loss", "val loss", "lr"):
        end = table.heading().index(word) + len(word)
        assert rows[0][end - 1] != " "
        assert rows[0][end : end + 1].strip() == ""


def test_the_heading_comes_once_and_a_note_comes_last() -> None:
    table = EpochTable(2, ["loss", "rank"], "f1")
    row = epoch(1, {"loss": 1, "rank": 2}, {"loss": 3, "rank": 4, "f1": 0.5}, 0.1)
    first, second = (table.lines(row, seconds=1, note="best") for _ in range(2))
    assert first == [table.heading(), *second]
    assert table.heading().split()[-4:] == ["val", "F1", "lr", "time"]
    assert second[0].split() == ["1/2", "1.0000", "2.0000", "3.0000", "4.0000", "50.00%", "0.1", "1.0", "s", "best"]


def test_only_long_names_are_cut_to_their_last_word() -> None:
    heading = EpochTable(2, ["loss", "abs_error", "point_top1"]).heading()
    assert " ".join(heading.split()).startswith("epoch train loss abs error top-1 val loss abs error top-1 lr")
