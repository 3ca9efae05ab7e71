from __future__ import annotations

from dbbd_cli.engine.epoch_table import EpochTable


def test_rows_stand_under_their_heading_and_fit_a_narrow_terminal() -> None:
    table = EpochTable(10, ["loss", "accuracy"])
    rows = [
        table.row(
            epoch,
            {"loss": 0.6843, "accuracy": 0.6263},
            {"loss": 0.6295, "accuracy": 1.0},
            learning_rate=1e-6 * epoch,
            seconds=50.0 * epoch,
        )
        for epoch in (1, 10)
    ]
    assert table.heading().split() == ["epoch", "train", "loss", "accuracy", "val", "loss", "accuracy", "lr", "time"]
    assert rows[0].split() == ["1/10", "0.6843", "62.63%", "0.6295", "100.00%", "1e-06", "50.0", "s"]
    assert rows[1].endswith("8.3 min")
    assert len({len(line) for line in (*rows, table.heading())}) == 1
    assert len(rows[0]) + len("  best saved") <= 80
    for word in ("train loss", "val loss", "lr"):
        end = table.heading().index(word) + len(word)
        assert rows[0][end - 1] != " "
        assert rows[0][end : end + 1].strip() == ""


def test_other_metrics_get_columns_and_a_note_comes_last() -> None:
    table = EpochTable(2, ["loss", "rank"])
    row = table.row(1, {"loss": 1, "rank": 2}, {"loss": 3, "rank": 4}, learning_rate=0.1, seconds=1, note="best")
    assert row.split() == ["1/2", "1.0000", "2.0000", "3.0000", "4.0000", "0.1", "1.0", "s", "best"]
