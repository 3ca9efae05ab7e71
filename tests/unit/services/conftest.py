from __future__ import annotations

from functools import partial

import pytest

from dbbd_cli.engine import efficiency
from dbbd_cli.model.linear_probe import fit_probe
from dbbd_cli.tasks.dbbd import probe as point_probe


@pytest.fixture(autouse=True)
def _cheap_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these tests looks at how fast anything is, or at how well a probe is fitted."""
    monkeypatch.setattr(efficiency, "WARM_UP_RUNS", 1)
    monkeypatch.setattr(efficiency, "TIMED_RUNS", 2)
    monkeypatch.setattr(point_probe, "fit_probe", partial(fit_probe, max_iterations=8))
