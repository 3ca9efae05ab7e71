"""Every shipped config loads, a dumped config reads back equal, and a file that cannot be read says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dbbd_cli.config.load import dump_config
from dbbd_cli.config.shipped import shipped_configs
from dbbd_cli.core.errors import ConfigError, ExitCode
from dbbd_cli.core.text import printable
from dbbd_cli.tasks.configs import config_from_mapping, load_config

TASK = "task: image_classification\n"
SHIPPED = f"shipped configs: {', '.join(shipped_configs())}"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def failure(source: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(source)
    assert caught.value.exit_code == ExitCode.USAGE
    return caught.value


# Shipped configs


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_loads(name: str) -> None:
    config = load_config(name)
    assert config == load_config(f"{name}.yaml") == load_config(str(shipped_configs()[name]))
    assert config.run.name == name


def test_shipped_configs_are_those_of_the_repository() -> None:
    folder = Path(__file__).parents[3] / "configs"
    assert shipped_configs() == {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    assert "qr_cnn" in shipped_configs()


def test_an_installed_package_carries_its_configs(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    for room in ("config", "core", "data", "model", "tasks"):
        shutil.copytree(root / "dbbd_cli" / room, tmp_path / "dbbd_cli" / room)
    shutil.copy(root / "dbbd_cli" / "__init__.py", tmp_path / "dbbd_cli")
    for folder, name in ((tmp_path / "dbbd_cli" / "configs", "inside"), (tmp_path / "configs", "another_package")):
        folder.mkdir()
        (folder / f"{name}.yaml").write_text(TASK, encoding="utf-8")
    code = (
        "from dbbd_cli.tasks.configs import load_config; from dbbd_cli.config.shipped import shipped_configs;"
        "print(*shipped_configs()); load_config('inside')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["inside"]


def test_a_file_comes_before_a_shipped_config() -> None:
    Path("qr_cnn.yaml").write_text(TASK + "seed: 7\n", encoding="utf-8")
    assert load_config("qr_cnn.yaml").seed == 7
    assert load_config("qr_cnn").seed == 42


def test_a_folder_does_not_hide_a_shipped_config() -> None:
    Path("qr_cnn").mkdir()
    assert load_config("qr_cnn").seed == 42


# Reading and writing


def test_numbers_in_scientific_notation() -> None:
    Path("x.yaml").write_text(TASK + "training: {min_lr: 1e-8, learning_rate: 2E-4}\n", encoding="utf-8")
    training = load_config("x.yaml").training
    assert (training.min_lr, training.learning_rate) == (1e-8, 2e-4)


def test_words_of_yaml_1_1_may_be_class_names() -> None:
    text = TASK + "data:\n  source: classes\n  classes: {no: a, yes: on, 1:30: off}\n  positive_class: no\n"
    Path("x.yaml").write_text(text, encoding="utf-8")
    data = load_config("x.yaml").data
    assert data.classes == {"no": "a", "yes": "on", "1:30": "off"}
    assert data.positive_class == "no"


def test_a_byte_order_mark_is_skipped() -> None:
    Path("x.yaml").write_text("\ufeff" + TASK, encoding="utf-8")
    assert load_config("x.yaml").seed == 42


def test_paths_stay_as_they_are() -> None:
    Path("x.yaml").write_text(TASK + "data: {source: folder, path: ../some/where}\n", encoding="utf-8")
    assert load_config("x.yaml").data.path == "../some/where"


@pytest.mark.parametrize("name", shipped_configs())
def test_a_dumped_config_reads_back_equal(name: str) -> None:
    config = load_config(name)
    Path("x.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config("x.yaml") == config
    top_level = [line.partition(":")[0] for line in dump_config(config).splitlines() if not line.startswith(" ")]
    assert top_level == list(type(config).model_fields)


@pytest.mark.parametrize(
    "text",
    [
        *("no", "True", "null", "~", "1", "1e-4", "1:30", "007", "2024-01-31", ".inf", " ", "a: b", "#", "- a", "*x"),
        *("é 😀", "a\u202eb", "two\nlines\n", "next\x85line", "\u2028", "tab\t", "\x00", "'\"\\", "{a}", "@", "%TAG"),
        *("!x", "x " * 9999),
    ],
)
def test_any_text_reads_back_equal(text: str) -> None:
    values = {"source": "classes", "classes": {text: text, "other": "x"}}
    config = config_from_mapping({"task": "image_classification", "data": values}, origin="test")
    dumped = dump_config(config)
    assert printable(dumped, keep="\n") == dumped, "invisible characters are escaped"
    Path("x.yaml").write_text(dumped, encoding="utf-8", newline="")
    assert load_config("x.yaml") == config


def test_yaml_1_1_reads_a_dump_the_same_way() -> None:
    import yaml

    values = {"run": {"name": "no", "runs_dir": "1:30"}, "training": {"min_lr": 1e-8}}
    config = config_from_mapping({"task": "image_classification", **values}, origin="test")
    assert yaml.safe_load(dump_config(config)) == config.model_dump()


# Files that cannot be read


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("qr_cn", "qr_cnn"),
        ("qr_cnn2.yaml", "qr_cnn"),
        ("mine.yml", "mine.yaml"),
        ("folder/traning.yaml", str(Path("folder/training.yml"))),
        ("nowhere/zzz.yaml", ""),
    ],
)
def test_a_missing_file(source: str, meant: str) -> None:
    Path("mine.yaml").write_text(TASK, encoding="utf-8")
    Path("folder").mkdir()
    Path("folder/training.yml").write_text(TASK, encoding="utf-8")
    error = failure(source)
    assert error.message == f"{Path(source)}: no such file or shipped config"
    assert error.hint == (f"did you mean {meant}? ({SHIPPED})" if meant else SHIPPED)


def test_a_folder_instead_of_a_file() -> None:
    Path("folder").mkdir()
    error = failure("folder")
    assert (error.message, error.hint) == ("folder is a folder", SHIPPED)
    Path("folder/config.yaml").write_text(TASK, encoding="utf-8")
    assert failure("folder").hint == f"name a file: {Path('folder/config.yaml')}"


def test_a_name_that_no_file_can_have() -> None:
    assert failure("x" * 5000 + ".yaml").message.endswith("… cannot be read: File name too long") or os.name == "nt"


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_a_file_without_permission() -> None:
    Path("x.yaml").write_text(TASK, encoding="utf-8")
    Path("x.yaml").chmod(0)
    assert failure("x.yaml").message == "x.yaml cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("text", "found"), [("- a\n- b\n", "['a', 'b']"), ("# nothing", "null"), ("hello", "'hello'"), ("3", "3")]
)
def test_a_top_level_without_keys(text: str, found: str) -> None:
    Path("x.yaml").write_text(text, encoding="utf-8")
    error = failure("x.yaml")
    assert error.message == f"x.yaml: the top level is {found}, not keys with values"
    assert error.hint == "begin with 'task: image_classification'"


@pytest.mark.parametrize("data", [b"a: 1\nb: \xe9\n", TASK.encode("utf-16")])
def test_other_encodings(data: bytes) -> None:
    Path("x.yaml").write_bytes(data)
    error = failure("x.yaml")
    assert (error.message, error.hint) == ("x.yaml is not UTF-8 text", "save it as UTF-8")


def test_a_large_file() -> None:
    padding = "#" * (1_000_000 - len(TASK))
    Path("x.yaml").write_text(TASK + padding, encoding="utf-8", newline="")
    assert load_config("x.yaml").seed == 42
    Path("x.yaml").write_text(TASK + padding + "#", encoding="utf-8", newline="")
    assert failure("x.yaml").message == "x.yaml is larger than 1 MB"


def test_a_syntax_error_is_reported_alone() -> None:
    Path("x.yaml").write_text("sed: 1\nseed: [1\n", encoding="utf-8")
    error = failure("x.yaml")
    assert error.message.startswith("x.yaml:2:9: not valid YAML: ")
    assert error.details == ["seed: [1\n        ^"]


def test_importing_the_loader_is_light() -> None:
    code = (
        "import sys, dbbd_cli.config.load\n"
        "heavy = {'difflib', 'torch', 'numpy', 'rich', 'typer', 'PIL', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
