"""The tables of an evaluation of DBBD list its metrics, losses, probe and conclusion, as far as they were measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dbbd_cli.report.tables import Note
from dbbd_cli.tasks.dbbd.tables import dbbd_tables

Make = Callable[..., Any]


def test_everything_that_was_measured_is_listed(pretraining_of: Make) -> None:
    metrics, contrast, probe, conclusion, classes, labels, encoded, verdict, _ = dbbd_tables(pretraining_of(), "scenes")
    assert {
        ("Scenes", "6"),
        ("Points", "203,411"),
        ("Feature std", "0.0800"),
        ("Probe: test points", "190,000"),
    } <= set(metrics.rows)
    assert contrast.rows == (
        ("level 1", "32", "1.5000", "3.4657", "75.00%"),
        ("points", "4,096", "8.5000", "8.3178", "12.50%"),
    )
    assert probe.title == "Linear probe: trained on 28 scenes, tested on 6"
    assert probe.rows[1] == ("random encoder", "25.00%", "30.00%", "40.00%")
    assert isinstance(conclusion, Note)
    assert classes.columns == ("", "pretrained", "random encoder", "raw features")
    assert classes.short_columns == ("", "pretrained", "random", "raw")
    assert classes.rows[0] == ("floor", "90.00%", "45.00%", "22.50%")
    assert classes.rows[2] == ("chair", "-", "-", "-")
    assert classes.ranking == (1, 0, 2)
    assert labels.title == "Label efficiency: mIoU by labeled scenes (± standard deviation of 3 draws)"
    assert labels.columns == ("Scenes", "pretrained", "random encoder", "raw features", "random forest")
    assert labels.rows == (
        ("1", "20.0% ± 3.0", "10.0% ± 3.0", "5.0% ± 3.0", "16.0% ± 3.0"),
        ("28", "50.0%", "25.0%", "12.5%", "40.0%"),
    )
    assert labels.short_columns == ("Scenes", "pretrained", "random", "raw", "forest")
    assert labels.short_rows[0] == ("1", "20.0%", "10.0%", "5.0%", "16.0%")
    assert encoded.columns == ("", "Height", "Normal, |z|", "Position, x and y")
    assert encoded.rows[1] == ("random encoder", "0.80", "-", "0.70")
    assert isinstance(verdict, Note)


@pytest.mark.parametrize(("better", "warning"), [(["yes", "yes"], False), (["yes", "unclear"], True)])
def test_the_conclusion_is_a_warning_unless_pretraining_beat_all_others(
    pretraining_of: Make, better: list[str], warning: bool
) -> None:
    evaluation = pretraining_of()
    evaluation["encoded"] = None
    evaluation["probe"]["comparison"] = [{"better": word} for word in better]
    assert [section.warning for section in dbbd_tables(evaluation, "scenes") if isinstance(section, Note)] == [warning]


def test_ignored_labels_are_listed(pretraining_of: Make) -> None:
    rows = [{"label": 255, "points": 1204}, {"label": None, "points": 1}]
    metrics = dbbd_tables({**pretraining_of(), "ignored_labels": rows}, "scenes")[0]
    assert ("Ignored labels", "255 (1,204 points), negative or NaN (1 point)") in metrics.rows


def test_a_missing_probe_has_a_reason(pretraining_of: Make) -> None:
    evaluation = {**pretraining_of(), "probe": None, "probe_missing": "the scenes have no labels"}
    assert Note("not measured: the scenes have no labels", title="Linear probe") in dbbd_tables(evaluation, "scenes")
    assert dbbd_tables({"format": 1}, "scenes")[-1] == Note("not measured", title="Linear probe")


def test_what_is_missing_beside_the_probe_has_a_reason(pretraining_of: Make) -> None:
    evaluation = pretraining_of()
    evaluation["label_efficiency"]["forest_missing"] = "scikit-learn is not installed"
    evaluation |= {"encoded": None, "encoded_missing": "no training scenes"}
    notes = [section for section in dbbd_tables(evaluation, "scenes") if isinstance(section, Note)]
    assert Note("Random forest not measured: scikit-learn is not installed") in notes
    assert Note("not measured: no training scenes", title="What the features encode") in notes


def test_a_shortcut_is_a_warning(pretraining_of: Make) -> None:
    evaluation = pretraining_of()
    evaluation["encoded"]["shortcut"] = True
    note = Note(evaluation["encoded"]["conclusion"], warning=True)
    assert note in dbbd_tables(evaluation, "scenes")


def test_kinds_with_other_numbers_of_scenes_share_the_table(pretraining_of: Make) -> None:
    evaluation = pretraining_of()
    del evaluation["label_efficiency"]["curves"][1]["points"][0]
    [table] = [section for section in dbbd_tables(evaluation, "scenes") if section.title.startswith("Label eff")]
    assert table.rows[0] == ("1", "20.0% ± 3.0", "-", "5.0% ± 3.0", "16.0% ± 3.0")
