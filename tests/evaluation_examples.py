"""Parts of `evaluation.json` of DBBD."""

from __future__ import annotations

from typing import Any

LABEL_EFFICIENCY: dict[str, Any] = {
    "train_scenes": 28,
    "test_scenes": 6,
    "curves": [
        {
            "name": name,
            "points": [
                {
                    "scenes": 1,
                    "draws": 3,
                    "miou": 0.2 * share,
                    "std": 0.03,
                    "low": 0.17 * share,
                    "high": 0.24 * share,
                },
                {
                    "scenes": 28,
                    "draws": 1,
                    "miou": 0.5 * share,
                    "std": None,
                    "low": 0.5 * share,
                    "high": 0.5 * share,
                },
            ],
        }
        for name, share in (
            ("pretrained", 1.0),
            ("random encoder", 0.5),
            ("raw features", 0.25),
            ("random forest", 0.8),
        )
    ],
    "forest_missing": "",
}
ENCODED: dict[str, Any] = {
    "train_scenes": 28,
    "test_scenes": 6,
    "targets": ["height", "normal", "position"],
    "features": [
        {"name": "pretrained", "r2": [0.91, 0.42, 0.5]},
        {"name": "random encoder", "r2": [0.8, None, 0.7]},
        {"name": "raw features", "r2": [1.0, -0.03, 1.0]},
    ],
    "shortcut": False,
    "conclusion": "The position of a point is no easier to read from the pretrained features.",
}
