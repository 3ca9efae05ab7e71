"""Settings of property tests: the same cases in every run, and no files left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings

FULL = os.environ.get("DBBD_RELIABILITY") == "full"


def cases(short: int, full: int) -> Callable[[Any], Any]:
    """Return the settings of a property test with a number of cases."""
    return settings(
        max_examples=full if FULL else short,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink),
        # The cases of a test share a folder, and a busy machine is not a failure.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
    )


fuzzed = cases(500, 5000)
round_trips = cases(100, 1000)
