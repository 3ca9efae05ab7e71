"""The tables that all tasks share: what was evaluated, and the efficiency, without values that were not measured."""

from __future__ import annotations

from dbbd_cli.report.tables import Values, about, default_tables, efficiency, measured, ranked


def test_missing_values_are_left_out() -> None:
    assert measured({"a": 1, "b": None}, [("a", "A", str), ("b", "B", str), ("c", "C", str)]) == [("A", "1")]
    assert about({}) == []
    assert efficiency(None, "images") == []
    assert default_tables({"loss": 0.5}, "rows") == [Values("Metrics", (("Loss", "0.5000"),))]


def test_the_numbers_of_a_task_are_shown_by_default() -> None:
    evaluation = {
        "format": 1,
        "epoch": 3,
        "synthetic": True,
        "loss": 0.5,
        "abs_error": 0.25,
        "roc_auc": 0.75,
        "accuracy": 0.5,
        "r2": None,
        "classes": [1],
    }
    shown = (("Loss", "0.5000"), ("Abs error", "0.2500"), ("ROC AUC", "0.7500"), ("Accuracy", "50.00%"))
    assert default_tables(evaluation, "rows") == [Values("Metrics", shown)]


def test_rows_are_ranked_with_missing_values_last() -> None:
    assert ranked([0.5, None, 0.1, 0.0]) == (3, 2, 0, 1)


def test_about_names_checkpoint_split_epoch_and_data() -> None:
    evaluation = {"checkpoint": "best_model.pth", "split": "val", "epoch": 1200, "synthetic": False}
    assert about(evaluation) == [
        ("Checkpoint", "best_model.pth"), ("Split", "val"), ("Epoch", "1,200"), ("Data", "real"),
    ]  # fmt: skip


def test_efficiency_has_units() -> None:
    facts = {
        "parameters": 312_416,
        "size_mb": 10_240.0,
        "multiply_adds": 557_200_000,
        "batch_size": 1,
        "ms_per_batch": {"median": 812.34, "p10": 790.1, "p90": 1861.7},
        "ms_per_sample": {"median": 6.5},
        "samples_per_second": 4.92,
        "points_per_second": 168_000.4,
        "peak_memory_mb": None,
        "device": "cpu",
    }
    (section,) = efficiency(facts, "scenes")
    assert section.rows == (
        ("Parameters", "312,416"),
        ("Size", "10.00 GB"),
        ("Multiply-adds", "557.2 million per scene"),
        ("Time per scene", "6.5 ms"),
        ("Time per batch", "812.3 ms (790.1 to 1,862), 1 scene"),
        ("Throughput", "4.9 scenes/s, 168,000 points/s"),
        ("Device", "cpu"),
    )
