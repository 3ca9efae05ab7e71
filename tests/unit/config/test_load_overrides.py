"""Values of the command line replace those of a file or a run, and errors name the option that set them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from dbbd_cli.config.load import Override, dump_config, parse_override
from dbbd_cli.config.sections import to_plain
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.tasks.configs import config_from_mapping, load_config

NOT_PLAIN = (
    "anchors, aliases and tags are not supported",
    "write the value out, or quote text that starts with &, * or !",
)
VALUES: dict[str, Any] = {"task": "image_classification", "training": {"epochs": 10, "batch_size": 4}}


def failure(*settings: str, values: Any = VALUES) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(values, [parse_override(text) for text in settings], origin="runs/x/config.yaml")
    return caught.value


def bad_override(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_override(text)
    return caught.value


def checked(*settings: str, task: str = "image_classification") -> Any:
    return config_from_mapping({"task": task}, [parse_override(text) for text in settings], origin="test")


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("data.path", text)
        for text in (
            *("session #2", "#x", "2024", "1e5", "007", "true", "~", "~/x", "Null", "NULL", "./null"),
            *("a: b", "a:", "[x]", "{x}", "- a", "---", "@x", "`x`", "%TAG x", "!x", "&x", "*x", "|", ">", "a=b"),
            *("'x'", '"x"', "'x", "it's", " x", "x ", " ", "a  b", "a\tb", "a\nb", "a\x1bb", "é", "点", "C:\\pictures"),
        )
    ]
    + [
        (setting, "2024")
        for setting in (
            *("run.name", "run.runs_dir", "data.cache_dir", "data.url_column", "data.label_column"),
            *("data.positive_class", "model.weights"),
        )
    ]
    + [("run.name", "null"), ("model.weights", "null"), ("run.device", "cpu")],
)
def test_text_is_taken_literally(setting: str, text: str) -> None:
    source = ["data.source=folder"] if setting == "data.path" else []
    section, name = setting.split(".")
    config = checked(*source, f"{setting}={text}")
    assert getattr(getattr(config, section), name) == text
    read_back = config_from_mapping(yaml.safe_load(dump_config(config)), origin="test")
    assert read_back == config


def test_null_is_null_where_a_text_may_be_null() -> None:
    config = checked("data.path=x", "data.path=null", "data.cache_dir=null", "data.positive_class=null")
    assert (config.data.path, config.data.cache_dir, config.data.positive_class) == (None, None, None)


def test_texts_inside_other_settings() -> None:
    config = checked("data.source=classes", "data.classes.2024=a #1", "data.classes.b=true", "data.classes.null=null")
    assert config.data.classes == {"2024": "a #1", "b": "true", "null": "null"}
    config = checked("data.source=classes", "data.classes={cat: 'a #1', no: b}")  # a whole section is YAML
    assert config.data.classes == {"cat": "a #1", "no": "b"}
    assert checked("data.path=2024", "data.source=folder", task="dbbd").data.path == "2024"
    assert checked("data.class_names=[a, 'b #1']", task="dbbd").data.class_names == ["a", "b #1"]


def test_everything_except_text_is_yaml() -> None:
    config = checked(
        "training.epochs= 3", "training.min_lr=1e-6 # small", "run.plots=false", "training.scheduler=step "
    )
    assert (config.training.epochs, config.training.min_lr) == (3, 1e-6)
    assert (config.run.plots, config.training.scheduler) == (False, "step")
    assert checked("data.sample_per_class=null", "training.clip_grad_norm=~").data.sample_per_class is None


def test_the_task_says_how_a_value_is_read() -> None:
    config = checked("data.class_names=[a, b]", "task=dbbd")
    assert (config.task, config.data.class_names) == ("dbbd", ["a", "b"])


def test_an_empty_text_is_not_null() -> None:
    assert failure("data.path=").details == ["--set data.path=: data.path is ''\n    expected non-empty text"]


def test_a_name_that_is_not_utf_8_is_refused() -> None:
    assert failure("data.path=a\udcff").details == [
        "--set data.path=a\\udcff: data.path is 'a\\udcff'\n    expected text in UTF-8"
    ]


@pytest.mark.parametrize("text", ["training.epochs", "", "training.epochs:3"])
def test_an_override_without_an_equals_sign(text: str) -> None:
    error = bad_override(text)
    assert error.message == f"--set {text}: there is no '='"
    assert error.hint == "write KEY=VALUE, such as --set training.epochs=3"


@pytest.mark.parametrize("text", ["=3", " =3", "a..b=3", ".a=3", "a.=3"])
def test_an_override_without_a_key(text: str) -> None:
    error = bad_override(text)
    assert error.message == f"--set {text}: the key, or a part of it, is empty"
    assert error.hint == "write KEY=VALUE, such as --set training.epochs=3"


def test_an_override_that_is_not_yaml() -> None:
    error = failure("data.split=@x")
    assert error.message.startswith("--set data.split=@x: not valid YAML: found character")
    assert error.details == ["@x\n^"]
    assert error.hint.endswith("quote text that starts with @ or `")


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("data=!!python/name:os x", *NOT_PLAIN),
        ("data=*x", *NOT_PLAIN),
        ("data={b: 1, b: 2}", "b is set twice", "keep one of the two"),
        ("data={[1]: 2}", "a key must be text", "quote text that starts with { or ["),
    ],
)
def test_an_override_with_more_than_plain_values(text: str, what: str, hint: str) -> None:
    error = failure(text)
    assert (error.message, error.hint) == (f"--set {text}: {what}", hint)


def test_control_characters_of_the_command_line_are_escaped() -> None:
    for text in ("a=\x1b[31m", "a\x1b=1", "a=\udcff", "run.device=\x1b"):
        assert all(line.isprintable() for line in failure(text).details[0].split("\n"))
    assert failure("training.epochs=\x1b").message.isprintable()


def test_overrides_replace_create_and_the_last_one_wins() -> None:
    before = copy.deepcopy(VALUES)
    settings = ["training.epochs=3", "run.name=x", "data.split.train=0.6", "data.split.val=0.25", "training.epochs=5"]
    config = config_from_mapping(VALUES, [parse_override(text) for text in settings], origin="test")
    assert (config.training.epochs, config.training.batch_size, config.run.name) == (5, 4, "x")
    assert (config.data.split.train, config.data.split.val) == (0.6, 0.25)
    assert before == VALUES


def test_overrides_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("task: image_classification\nrun:\ndata:\n  classes: null\n", encoding="utf-8")
    settings = ["data.source=classes", "data.classes.cat=a", "data.classes.no=b", "run.name=x"]
    config = load_config(str(path), [parse_override(text) for text in settings])
    assert config.data.classes == {"cat": "a", "no": "b"}
    assert config.run.name == "x"


def test_an_override_replaces_what_is_wrong_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("task: image_classification\ntraining: {epochs: many, batch_size: 0}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), [Override("training.epochs", 3, "--epochs")])
    assert caught.value.details == [f"{path}:2: training.batch_size is 0\n    expected at least 1"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("training.epochs=0", "training.epochs is 0\n    expected at least 1"),
        ("training.epoch=3", "training.epoch is unknown\n    did you mean training.epochs?"),
        ("epochs=3", "epochs is unknown\n    did you mean training.epochs?"),
        ("trainig.epochs=3", "trainig is unknown\n    did you mean training?"),
        ("run=3", "run is 3\n    expected a section with keys"),
        ("data.classes={cat: 3}", "data.classes.cat is 3\n    expected text, in quotes"),
        ("seed.x=3", "seed is {'x': '3'}\n    expected an integer"),
        ("training.epochs.x=3", "training.epochs is 10, not a section with keys\n    set training.epochs itself"),
        ("task.x.y=3", "task is 'image_classification', not a section with keys\n    set task itself"),
        ("data.source=folder", "data.path is not set\n    expected a path, because source is folder"),
    ],
)
def test_errors_name_the_override(text: str, problem: str) -> None:
    error = failure(text)
    assert error.message == "runs/x/config.yaml: 1 problem"
    assert error.details == [f"--set {text}: {problem}"]


def test_an_override_takes_the_place_of_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "task: image_classification\ndata: {classes: {cat: 1}}\ntraining: {epochs: x, epochs: y}\n", encoding="utf-8"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), [parse_override("data.classes={cat: 2}"), parse_override("training.epochs=0")])
    assert [line.partition("\n")[0] for line in caught.value.details] == [
        f"{path}:3: training.epochs is set twice, first on line 3",
        "--set data.classes={cat: 2}: data.classes.cat is 2",
        "--set training.epochs=0: training.epochs is 0",
    ]


def test_errors_name_the_flag() -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(VALUES, [Override("training.epochs", 0, "--epochs")], origin="test")
    assert caught.value.details == ["--epochs: training.epochs is 0\n    expected at least 1"]


def test_errors_of_a_run_name_the_run() -> None:
    values = {**VALUES, "training": {"epochs": 0, "lr": 1}, "seed": "3", "old": None}
    error = failure("training.batch_size=0", values=values)
    assert error.message == "runs/x/config.yaml: 5 problems"
    assert [line.partition("\n")[0] for line in error.details] == [
        "runs/x/config.yaml: seed is '3'",
        "runs/x/config.yaml: training.epochs is 0",
        "runs/x/config.yaml: training.lr is unknown",
        "runs/x/config.yaml: old is unknown",
        "--set training.batch_size=0: training.batch_size is 0",
    ]


def test_values_of_a_run_may_be_damaged() -> None:
    assert failure(values=[1]).message == "runs/x/config.yaml: the top level is [1], not keys with values"
    assert failure(values={**VALUES, 5: 1}).details == ["runs/x/config.yaml: the key 5\n    Keys should be strings"]
    assert failure(values={**VALUES, "a\udcff": 1}).details[0].endswith("\n    expected text in UTF-8")
    recursive: dict[str, Any] = {"task": "image_classification"}
    recursive["run"] = recursive
    assert "runs/x/config.yaml: run.task is unknown" in failure(values=recursive).details[0]


def test_resolved_values_are_accepted_as_they_are() -> None:
    config = config_from_mapping(VALUES, origin="test")
    assert config_from_mapping(to_plain(config), origin="test") == config


@pytest.mark.parametrize(
    ("settings", "source"),
    [
        (["data.path=pictures"], "folder"),
        (["data.path=table.csv"], "urls"),
        (["data.path=a-table-without-suffix"], "urls"),
        (["data.path=folder.csv"], "folder"),
        (["data.classes={a: x, b: y}"], "classes"),
        (["data.classes.a=x", "data.classes.b=y"], "classes"),
        ([], "synthetic"),
        (["data.path=null"], "synthetic"),
    ],
)
def test_where_the_data_is_implies_its_source(
    settings: list[str], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "a-table-without-suffix").touch()
    (tmp_path / "mine.yaml").write_text("task: image_classification\n", encoding="utf-8")
    overrides = [parse_override(text) for text in settings]
    for file in ("mine.yaml", "qr_cnn"):  # which says synthetic itself
        assert load_config(file, overrides).data.source == source


def test_an_explicit_source_is_never_changed(tmp_path: Path) -> None:
    path = parse_override("data.path=x")
    for text in ("data.source=synthetic", "data.source=classes"):
        with pytest.raises(ConfigError):
            load_config("qr_cnn", [path, parse_override(text)])
    file = tmp_path / "mine.yaml"
    file.write_text("task: dbbd\ndata: {source: synthetic, path: x}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(str(file))
    assert "omit source to use your own data" in caught.value.details[0]
    values = {"task": "dbbd", "data": {"source": "synthetic"}}
    with pytest.raises(ConfigError):  # a run keeps its source
        config_from_mapping(values, [path], origin="x")
    assert config_from_mapping(values, [path], origin="x", new_data=True).data.source == "folder"


def test_a_folder_of_scenes_implies_its_source() -> None:
    assert load_config("debug_local", [parse_override("data.path=scenes.csv")]).data.source == "folder"
    assert config_from_mapping({"task": "dbbd", "data": {"path": "x"}}, origin="x").data.source == "folder"


@pytest.mark.parametrize(
    ("task", "known"),
    [
        ("image_classification", "'loss', 'accuracy' or 'f1'"),
        ("dbbd", "'loss', 'region_loss', 'point_loss', 'description_loss', 'region_top1' or 'point_top1'"),
    ],
)
def test_an_unknown_metric_lists_those_of_the_task(task: str, known: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({"task": task}, [parse_override("checkpoint.metric=auc")], origin="x")
    assert f"expected {known}" in caught.value.details[0]
