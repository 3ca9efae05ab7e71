"""All problems of a configuration are reported at once: where, what was found, what is expected, what may be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig
from dbbd_cli.tasks.registry import task_names

TASK = "task: image_classification\n"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems(text: str) -> list[str]:
    Path("x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config("x.yaml")
    error = caught.value
    assert error.message == f"x.yaml: {len(error.details)} problem{'s' * (len(error.details) > 1)}"
    return error.details


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = """\
task: image_classification
sed: 1
run:
  name: 42
  device: gpu
  device: tpu
data:
  split: {train: 0.8, val: 0.15,
          test: 0.15}
model:
  droput: 1
  dropout: 1.5
training:
  epochs: 0
  learning-rate: 1e-3
"""
    assert problems(text) == [
        "x.yaml:2: sed is unknown\n    did you mean seed?",
        "x.yaml:4: run.name is 42\n    expected text, in quotes",
        "x.yaml:6: run.device is set twice, first on line 5\n    keep one of the two",
        "x.yaml:6: run.device is 'tpu'\n    expected auto, cpu, cuda, cuda:N or mps",
        "x.yaml:8: data.split.train is 0.8\n    expected shares that sum to 1 (train + val + test is 1.1)",
        "x.yaml:11: model.droput is unknown\n    did you mean model.dropout?",
        "x.yaml:12: model.dropout is 1.5\n    expected less than 1",
        "x.yaml:14: training.epochs is 0\n    expected at least 1",
        "x.yaml:15: training.learning-rate is unknown\n    did you mean training.learning_rate?",
    ]


@pytest.mark.parametrize(
    ("text", "what", "advice"),
    [
        ("seed: -1", "seed is -1", "expected at least 0"),
        ("seed: '3'", "seed is '3'", "expected an integer, without quotes"),
        ("seed: 0o17", "seed is '0o17'", "expected an integer"),
        ("training: {epochs: 1.5}", "training.epochs is 1.5", "expected an integer"),
        ("training: {epochs: true}", "training.epochs is true", "expected an integer"),
        ("training: {epochs: null}", "training.epochs is null", "expected an integer"),
        ("training: {epochs: [1, 2]}", "training.epochs is [1, 2]", "expected an integer"),
        ("training: {learning_rate: 0}", "training.learning_rate is 0", "expected greater than 0"),
        ("training: {learning_rate: .inf}", "training.learning_rate is inf", "expected a finite number"),
        ("training: {learning_rate: .nan}", "training.learning_rate is nan", "expected a finite number"),
        ("training: {min_lr: fast}", "training.min_lr is 'fast'", "expected a number"),
        ("training: {clip_grad_norm: -1}", "training.clip_grad_norm is -1", "expected greater than 0"),
        ("training: {scheduler_factor: 1}", "training.scheduler_factor is 1", "expected less than 1"),
        ("training: {optimizer: adam}", "training.optimizer is 'adam'",
         "expected 'adamw' or 'sgd'; did you mean adamw?"),
        ("training: {optimizer: 7}", "training.optimizer is 7", "expected 'adamw' or 'sgd'"),
        ("data: {augment: {contrast: 2}}", "data.augment.contrast is 2", "expected at most 1"),
        ("data: {image_size: 16}", "data.image_size is 16", "expected at least 32"),
        ("data: {image_size: 100}", "data.image_size is 100",
         "expected a multiple of 8, because model.name is qr_cnn"),
        ("model: {name: resnet51}", "model.name is 'resnet51'",
         "expected qr_cnn or a torchvision classifier; did you mean resnet50?"),
        ("model: {name: 5}", "model.name is 5", "expected text, in quotes"),
        ("data: {classes: 3}", "data.classes is 3", "expected a section with keys"),
        ("data: {classes: {cat: 3}}", "data.classes.cat is 3", "expected text, in quotes"),
        ("data: {classes: {'': x}}", "the key '' in data.classes", "expected non-empty text"),
        ("data: {classes: {3: x, b: y}, source: classes}", "the key data.classes.3 is not text",
         "write '3', in quotes"),
        ("checkpoint: {save_best: yes}", "checkpoint.save_best is 'yes'", "expected true or false"),
        ("checkpoint: {save_best: 'true'}", "checkpoint.save_best is 'true'",
         "expected true or false, without quotes"),
        ("checkpoint: {save_best: {a: 1}}", "checkpoint.save_best is {'a': 1}", "expected true or false"),
        ("run: {name: ''}", "run.name is ''", "expected non-empty text"),
        ("run: {name: true}", "run.name is true", "expected text, in quotes"),
        ('run: {device: "\\e[31m"}', "run.device is '\\x1b[31m'", "expected auto, cpu, cuda, cuda:N or mps"),
        ("run: 5", "run is 5", "expected a section with keys"),
        ("run:", "run is null", "expected a section with keys; remove the line to use the defaults"),
    ],
)  # fmt: skip
def test_what_is_found_and_what_is_expected(text: str, what: str, advice: str) -> None:
    assert problems(TASK + text) == [f"x.yaml:2: {what}\n    {advice}"]


def test_long_values_and_names_are_shortened() -> None:
    (problem,) = problems(TASK + f"training: {{optimizer: {'a' * 5000}}}")
    assert len(problem) < 200
    (problem,) = problems(TASK + f"? {'k' * 5000}\n: 1")
    assert problem.startswith(f"x.yaml:2: {'k' * 59}… is unknown\n")


@pytest.mark.parametrize(
    ("text", "key", "advice"),
    [
        ("training: {learning_rat: 1}", "training.learning_rat", "did you mean training.learning_rate?"),
        ("training: {Learning-Rate: 1}", "training.Learning-Rate", "did you mean training.learning_rate?"),
        ("epochs: 1", "epochs", "did you mean training.epochs?"),
        ("name: x", "name", "did you mean run.name or model.name?"),
        ("training: {seed: 1}", "training.seed", "did you mean seed?"),
        ("epoch: 1", "epoch", "did you mean training.epochs?"),
        ("train: 1", "train", "did you mean data.split.train or training?"),
        ("split: {train: 1}", "split", "did you mean data.split?"),
        ("training.epochs: 3", "training.epochs", "write epochs inside the section training"),
        ("data: {split: {qqq: 1}}", "data.split.qqq", "expected one of: train, val, test, group"),
        ('"\\e[31m": 1', "\\x1b[31m", f"expected one of: {', '.join(ImageClassificationConfig.model_fields)}"),
    ],
)
def test_unknown_keys(text: str, key: str, advice: str) -> None:
    assert problems(TASK + text) == [f"x.yaml:2: {key} is unknown\n    {advice}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # At the field, where it is set.
        ("training:\n  learning_rate: 1e-3\n  min_lr: 1e-2",
         "x.yaml:4: training.min_lr is 0.01\n    expected at most learning_rate (0.001)"),
        ("data:\n  source: folder\n  path: x\n  split:\n    train: 0.7\n    group: host",
         "x.yaml:7: data.split.group is 'host'\n    expected none, because only URLs have hosts and source is folder"),
        ("data:\n  source: folder\n  path: x\n  urls:\n    www: strip",
         "x.yaml:6: data.urls.www is 'strip'\n    expected keep, because only URLs are cleaned and source is folder"),
        ("training:\n  epochs: 2\n  warmup_epochs: 3",
         "x.yaml:4: training.warmup_epochs is 3\n    expected at most epochs (2)"),
        ("data:\n  split: {train: 0.7, val: 0.3,\n          test: 0}",
         "x.yaml:4: data.split.test is 0\n    expected greater than 0: every split is needed"),
        # At the section, where it is not.
        ("training:\n  learning_rate: 1e-7",
         "x.yaml:2: training.min_lr is 1e-06, the default\n    expected at most learning_rate (1e-07)"),
        ("seed: 3\ndata:\n  source: folder",
         "x.yaml:3: data.path is not set\n    expected a path, because source is folder"),
        ("data:\n  source: folder\n  path: null",
         "x.yaml:4: data.path is null\n    expected a path, because source is folder"),
    ],
)  # fmt: skip
def test_rules_across_fields(text: str, problem: str) -> None:
    assert problems(TASK + text) == [problem]


def test_the_list_of_problems_has_an_end() -> None:
    Path("x.yaml").write_text(TASK + "".join(f"key_{n}: 1\n" for n in range(1_999)) + "seed: x\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config("x.yaml")
    error = caught.value
    assert error.message == "x.yaml: 2,000 problems"
    assert len(error.details) == 51
    assert error.details[0].startswith("x.yaml:2: key_0 is unknown\n")
    assert error.details[49].startswith("x.yaml:51: key_49 is unknown\n")
    assert error.details[-1] == "and 1,950 more"


# The task


def test_a_missing_task_is_reported_with_what_is_wrong_for_every_task() -> None:
    text = "tsk: dbbd\nseed: x\nmodel: {name: resnet18, hidden_dim: 8}\ndata: {pth: scenes}\nloss: {temperature: -1}\n"
    assert problems(text) == [
        f"x.yaml: task is missing\n    expected one of: {', '.join(task_names())}",
        "x.yaml:1: tsk is unknown\n    did you mean task?",
        "x.yaml:2: seed is 'x'\n    expected an integer",
        "x.yaml:4: data.pth is unknown\n    did you mean data.path?",
    ]


@pytest.mark.parametrize(
    ("task", "found", "meant"),
    [
        ("image_clasification", "'image_clasification'", "; did you mean image_classification?"),
        ("xyz", "'xyz'", ""),
        ("null", "null", ""),
        ("[a]", "['a']", ""),
        ("{a: b}", "{'a': 'b'}", ""),
    ],
)
def test_an_unknown_task(task: str, found: str, meant: str) -> None:
    assert problems(f"seed: 1\ntask: {task}\n") == [
        f"x.yaml:2: task is {found}\n    expected one of: {', '.join(task_names())}{meant}"
    ]


@pytest.mark.parametrize(
    ("task", "key", "owner"),
    [
        ("dbbd", "training: {label_smoothing: 0.1}", "image_classification"),
        ("dbbd", "data: {image_size: 64}", "image_classification"),
        ("image_classification", "loss: {temperature: 0.2}", "dbbd"),
        ("image_classification", "model: {hidden_dim: 8}", "dbbd"),
    ],
)
def test_an_unknown_key_of_another_task_names_that_task(task: str, key: str, owner: str) -> None:
    (problem,) = problems(f"task: {task}\n{key}\n")
    assert "is unknown" in problem
    assert f"\n    it is a setting of the task {owner}" in problem  # first, in case another package has it too
