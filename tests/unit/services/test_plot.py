"""`plot` draws run folders in any format, writes nothing if one is damaged, and stays light and silent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbbd_cli.core.errors import CheckpointError, ConfigError, DiskError
from dbbd_cli.services.plot import plot

Make = Callable[..., Any]
DBBD_FIGURES = ["level_losses", "probe", "label_efficiency", "scene_features", "region_tree"]


def write(folder: Path, evaluation: dict[str, Any], scene: dict[str, Any] | None = None) -> Path:
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    if scene is not None:
        np.savez_compressed(folder / "evaluation_scene.npz", **scene)
    return folder


def test_a_run_is_drawn_into_its_folder_once_even_if_given_twice(make_run: Make) -> None:
    folder = make_run()
    again = folder / ".." / folder.name
    assert plot([again, folder], out=None, format="png").files == [folder / "training_history.png"]
    assert (folder / "training_history.png").stat().st_size > 10_000


def test_an_evaluated_run_has_its_figures_too(make_run: Make, evaluation_of: Make, tmp_path: Path) -> None:
    folder = make_run()
    (folder / "evaluation.json").write_text(json.dumps(evaluation_of()), encoding="utf-8")
    out = tmp_path / "deep" / "out"
    files = plot([folder], out=out, format="svg").files
    names = ["training_history", "confusion_matrix", "roc", "precision_recall", "reliability"]
    assert files == [out / f"{name}.svg" for name in names]
    assert sorted(out.iterdir()) == sorted(files)


def test_an_evaluated_run_of_dbbd_has_its_figures(make_run: Make, pretraining_of: Make, scene_of: Make) -> None:
    folder = write(make_run(task="dbbd"), pretraining_of(), scene_of())
    assert plot([folder], out=None, format="png").files == [
        folder / f"{name}.png" for name in ["training_history", *DBBD_FIGURES]
    ]


def test_without_the_scene_the_rest_is_drawn(make_run: Make, pretraining_of: Make, tmp_path: Path) -> None:
    folder = write(make_run(task="dbbd"), pretraining_of())
    files = plot([folder], out=tmp_path / "out", format="svg").files
    assert [file.stem for file in files] == ["training_history", *DBBD_FIGURES[:3]]


def test_the_scene_of_another_task_is_ignored(make_run: Make, evaluation_of: Make) -> None:
    folder = write(make_run(), {**evaluation_of(), "curves": None})
    (folder / "evaluation_scene.npz").write_bytes(b"damaged")
    assert [file.stem for file in plot([folder], out=None, format="png").files] == [
        "training_history",
        "confusion_matrix",
    ]


def test_nothing_is_written_if_the_scene_is_damaged(make_run: Make, pretraining_of: Make, tmp_path: Path) -> None:
    folder = write(make_run(task="dbbd"), pretraining_of())
    (folder / "evaluation_scene.npz").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"run-a: evaluation_scene\.npz"):
        plot([folder], out=tmp_path / "out", format="png")
    assert not (tmp_path / "out").exists()


def test_several_runs_are_compared_in_the_current_folder(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert plot([make_run("a"), make_run("b")], out=None, format="pdf").files == [Path("comparison.pdf")]
    assert [path.name for path in here.iterdir()] == ["comparison.pdf"]


def test_html_is_one_page(make_run: Make, evaluation_of: Make, tmp_path: Path) -> None:
    a, b = make_run("a"), make_run("b")
    (b / "evaluation.json").write_text(json.dumps({**evaluation_of(), "curves": None}), encoding="utf-8")
    assert plot([b], out=None, format="html").files == [b / "report.html"]
    assert (b / "report.html").read_text(encoding="utf-8").count("<svg") == 3
    assert plot([a, b], out=tmp_path / "out", format="html").files == [tmp_path / "out" / "report.html"]
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "Evaluation of b" in text


def test_missing_values_may_be_null(make_run: Make, evaluation_of: Make) -> None:
    folder = make_run()
    whole = evaluation_of()
    whole["curves"] |= {"roc": None, "precision_recall": None}
    for key in whole.keys() - {"format", "classes", "confusion_matrix", "curves"}:
        whole[key] = None
    whole["efficiency"] = {"unknown": {"deeper": {"deepest": [1]}}, "size_mb": float("inf")}
    (folder / "evaluation.json").write_text(json.dumps(whole), encoding="utf-8")
    assert plot([folder], out=None, format="html").files == [folder / "report.html"]
    assert (folder / "report.html").read_text(encoding="utf-8").count("<svg") == 4


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_to_itself_is_not_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(CheckpointError, match="circle"):
        plot([tmp_path / "circle"], out=None, format="png")


def test_nothing_is_written_if_a_file_is_damaged(make_run: Make, tmp_path: Path) -> None:
    good, bad = make_run("a"), make_run("b")
    (bad / "evaluation.json").write_text("{", encoding="utf-8")
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match=r"evaluation\.json"):
        plot([bad], out=out, format="png")
    (bad / "history.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"history\.jsonl"):
        plot([good, bad], out=out, format="png")
    assert not out.exists()


def test_wrong_arguments_are_rejected(make_run: Make, tmp_path: Path) -> None:
    folder = make_run()
    with pytest.raises(ConfigError, match="gif"):
        plot([folder], out=None, format="gif")
    with pytest.raises(ConfigError, match="no run folder"):
        plot([], out=None, format="png")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DiskError, match="file"):
        plot([folder], out=tmp_path / "file", format="png")


def test_plotting_imports_nothing_heavy_and_is_silent(make_run: Make, evaluation_of: Make) -> None:
    folder = make_run(name="猫 🙂 $x$")
    evaluation = {**evaluation_of(["猫", "🙂"]), "curves": None}
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from dbbd_cli.services.plot import plot\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plot([Path(sys.argv[1])], out=None, format='png')\n"
        "heavy = {'torch', 'torchvision', 'scipy', 'pandas', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    repository = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd=repository, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_run_of_a_task_that_is_not_installed_is_rejected(make_run: Make) -> None:
    folder = make_run(task="other")
    with pytest.raises(CheckpointError, match="there is no task 'other'") as caught:
        plot([folder], out=None, format="png")
    assert caught.value.message.startswith(str(folder))
    assert "install" in caught.value.hint


def test_runs_of_different_tasks_show_what_they_share(make_run: Make, tmp_path: Path) -> None:
    runs = [make_run("a"), make_run("b", task="dbbd")]
    (page,) = plot(runs, out=tmp_path / "out", format="html").files
    text = page.read_text(encoding="utf-8")
    assert "Validation accuracy" in text
    assert "Validation point top-1" in text
