"""Small valid texts of every kind: configurations, tables, manifests, records of a run, folders."""

from __future__ import annotations

import io
import json
import os
import shutil
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from reader import SHARED
from scene_seeds import COLOR, COORD

from dbbd_cli.config.sections import to_plain
from dbbd_cli.config.shipped import shipped_configs
from dbbd_cli.data.manifest import Manifest, Sample
from dbbd_cli.report.calibration import Calibration, calibration_json
from dbbd_cli.report.classification.gallery import pictures_file
from dbbd_cli.tasks.configs import load_config

DIGEST = 64 * "a"

HISTORY = b"".join(
    json.dumps(row).encode() + b"\n"
    for row in (
        {"kind": "step", "epoch": 1, "step": 1, "learning_rate": 0.001, "loss": 0.7},
        {"kind": "epoch", "epoch": 1, "step": 2, "learning_rate": 0.001, "train": {"loss": 0.7}, "val": {"loss": 0.8}},
        {"kind": "step", "epoch": 2, "step": 3, "learning_rate": 1e-4, "loss": None, "point_top1": 0.5},
        {"kind": "epoch", "epoch": 2, "step": 4, "train": {"loss": None}, "val": {"loss": 0.5}, "best": True},
    )
)
_SCORES = {"precision": 0.75, "recall": 0.75, "f1": None}
_EVALUATION = {
    "format": 1,
    "task": "image_classification",
    "checkpoint": "best_model.pth",
    "epoch": 2,
    "split": "test",
    "synthetic": True,
    "num_samples": 8,
    "classes": ["benign", "malicious"],
    "intervals": {
        "level": 0.95,
        "groups": 8,
        "group": "hosts",
        "accuracy": [0.5, 1.0],
        "recall_at_fpr": {"0.01": None},
    },
    "calibration": {"split": "val", "temperature": 1.5, "bias": [0.1, -0.1], "before": {"interval": [0.0, 0.5]}},
    "baselines": [{"name": "n-grams", "accuracy": 0.5, "lead": 0.1, "lead_interval": [-0.1, 0.2]}],
    "errors": [{"sample": "a.png", "class": "benign", "predicted": "malicious", "probability": 0.9}],
    "shared_with_training": {"samples": 0, "hosts": None},
    "positive_class": "malicious",
    "loss": 0.5,
    "accuracy": 0.75,
    "per_class": [{"class": name, **_SCORES, "support": 4} for name in ("benign", "malicious")],
    "macro": _SCORES,
    "weighted": _SCORES,
    "confusion_matrix": [[3, 1], [1, 3]],
    "roc_auc": 0.87,
    "recall_at_fpr": {"0.01": 0.3, "0.001": None},
    "curves": {
        "roc": [{"class": "malicious", "fpr": [0, 0.5, 1], "tpr": [0, 0.9, 1], "auc": 0.8}],
        "precision_recall": [{"class": "benign", "recall": [], "precision": [], "average_precision": None}],
        "reliability": {
            "bin_edges": [0.0, 0.5, 1.0],
            "confidence": [None, 0.8],
            "accuracy": [None, 1],
            "count": [0, 8],
        },
    },
    "efficiency": {"parameters": 51539906, "ms_per_batch": {"median": 6.5}},
}
_FEATURES = {"name": "raw", "dim": 3, "miou": 0.5, "mean_accuracy": 0.6, "overall_accuracy": 0.8}
_PRETRAINING = {
    "format": 1,
    "task": "dbbd",
    "num_points": 203411,
    "region_loss": 1.5,
    "contrast": [{"name": "points", "rows": 4096.0, "loss": 8.5, "chance": 8.3178, "top1": 0.125}],
    "probe": {"train_scenes": 28, "classes": ["wall"], "features": [{**_FEATURES, "per_class_iou": [0.5]}]},
    "probe_missing": "",
    "label_efficiency": {
        "train_scenes": 28,
        "curves": [
            {"name": "raw", "points": [{"scenes": 1, "draws": 3, "miou": 0.2, "std": 0.1, "low": 0, "high": 0.5}]}
        ],
    },
    "encoded": {"targets": ["height"], "features": [{"name": "raw", "r2": [0.5]}], "shortcut": True},
    "scene": {"name": "room00003", "classes": ["wall"]},
}
_SMALL_CONFIG = b"""# a comment
task: dbbd
seed: 7
run: {name: "a b", runs_dir: runs, device: 'cuda:0', plots: no}
data:
  source: folder
  path: >-
    folder
    name
  split: {train: 0.8, val: .1, test: 1e-1}
  features: [normals, height]
  class_names:
    - wall
    - "floor\\u00e9"
"""


def histories() -> list[bytes]:
    """Return a history, and one with rows in a different order and an incomplete line."""
    lines = HISTORY.splitlines(keepends=True)
    return [HISTORY, b"".join([*lines[::-1], lines[1], lines[0][:20]])]


def configs() -> list[bytes]:
    return [*(path.read_bytes() for path in shipped_configs().values()), _SMALL_CONFIG.replace(b"no}", b"false}")]


def config_mappings() -> list[bytes]:
    return [json.dumps(to_plain(load_config(name))).encode() for name in ("smoke_qr", "smoke_dbbd")]


def overrides() -> list[bytes]:
    texts = ("seed=3", "data.features=[normals, color]", "run.name='x'", "data={source: folder}", "run.device=cuda:1")
    return [text.encode() for text in texts]


def url_tables() -> list[bytes]:
    rows = 'https://www.example.com/a?b=1,benign\n"http://user@[::1]:80/,x",malicious\r\nexample.org,benign\n'
    tables = [
        b"url,label\n" + rows.encode(),
        b"\xef\xbb\xbflabel;n;url\nbenign;1;a.example\nbad;2;b.example/\xc3\xa9\n",
    ]
    if (real := SHARED / "data" / "qr_urls.csv").is_file():
        with real.open("rb") as file:
            tables.append(b"".join(islice(file, 6)))
    return tables


def parquet_tables() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    tables = []
    for labels in (["benign", "bad", None], [0, 1, 1]):
        buffer = BytesIO()
        parquet.write_table(pyarrow.table({"url": ["a.example", "b.example/x", ""], "label": labels}), buffer)
        tables.append(buffer.getvalue())
    return tables


def manifests() -> list[bytes]:
    samples = tuple(Sample(f"a/{i}.png", i % 2, f"{i:064x}", split) for i, split in enumerate(("train", "val", "test")))
    skipped = ("b/x.png: truncated",)
    pictures = Manifest("folder", ("a", "b"), ("/x/a", "/x/b"), samples, skipped)
    scenes = Manifest("scenes", (), ("/scenes",), tuple(Sample(s.key, 0, s.sha256, s.split) for s in samples[:2]))
    return [manifest.to_json().encode() for manifest in (pictures, scenes)]


def evaluations() -> list[bytes]:
    return [json.dumps(content, indent=1).encode() for content in (_EVALUATION, _PRETRAINING)]


def calibrations() -> list[bytes]:
    fitted = {"checkpoint": "best_model.pth", "checkpoint_sha256": DIGEST, "num_samples": 40, "temperature": 1.25}
    threshold = {
        "bias": [0.5, -0.5],
        "positive_class": "malicious",
        "false_positive_rate": 0.01,
        "threshold": 0.9,
        "achieved": {"rate": 0.0, "low": 0.0, "high": 0.1},
    }
    return [calibration_json(Calibration.model_validate(values)) for values in (fitted, {**fitted, **threshold})]


def error_pictures() -> list[bytes]:
    return [pictures_file(np.full((2, 4, 4, channels), 7, np.uint8)) for channels in (1, 3)]


def evaluation_scenes() -> list[bytes]:
    region = np.zeros((2, len(COORD)), np.int32)
    files = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, coord=COORD, color=COLOR, region=region, segment=region[0] - 1)
        files.append(buffer.getvalue())
    return files


def trees() -> list[bytes]:
    run = {"config.yaml": "task: dbbd", "history.jsonl": HISTORY.decode(), "ckpt.pth": "", "splits.json": "{}"}
    classes = {
        "cat": {"1.png": "\x89PNG\r\n\x1a\n", "2.JPG": "", "x": {"3.gif": "GIF89a"}},
        "dog": {"a.png": "", ".b": ""},
    }
    scenes = {"train": {"a.ply": "ply", "b": {"coord.npy": ""}}, "val": {"c.npz": "", "d": {"same": "c.npz"}}}
    return [json.dumps(tree).encode() for tree in (run, classes, scenes, {**run, "runs": {"1": run}, **classes})]


def typed() -> list[bytes]:
    texts = ("", "runs/", "~/x", "training.epochs=1", "run.device=c", "data.path=/tmp/", "smoke", "../", "./é", "/")
    return [text.encode() for text in texts]


def json_of(data: bytes) -> Any:
    """Return the value of a JSON text; a different kind of value if it is invalid."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def make_tree(content: Any, folder: Path) -> Path:
    """Create files, folders and links (`{"same": TARGET}`) in a new folder, if the system allows the names."""
    root = folder / "tree"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    waiting = [(root, content)]
    while waiting:
        parent, entries = waiting.pop()
        for name, value in entries.items() if isinstance(entries, dict) else ():
            if "/" in name or os.sep in name or name in ("", ".", ".."):
                continue
            path = parent / name
            try:
                if isinstance(value, dict) and isinstance(value.get("same"), str):
                    path.symlink_to(value["same"])
                elif isinstance(value, dict):
                    path.mkdir()
                    waiting.append((path, value))
                else:
                    path.write_bytes(str(value).encode("utf-8", "surrogatepass"))
            except (OSError, ValueError):  # not a valid file name
                continue
    return root
