"""The exit code of `--nproc` is that of the process that failed first, for a reason of its own."""

from __future__ import annotations

import pytest

from dbbd_cli.core.errors import ProcessError
from dbbd_cli.services.launch import _ended


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ({0: 3, 1: 8}, (3, "")),
        ({0: 8, 1: 5}, (5, "")),
        ({1: 5, 0: 3}, (5, "")),  # in the order in which they ended
        ({0: 8, 1: -9}, (8, "process 2 was ended by SIGKILL")),
        ({1: 3, 0: -9}, (3, "")),  # killed because it did not end
        ({0: 8, 1: -15, 2: 143}, (8, "")),  # ended by the launcher
        ({0: 143, 1: 143}, (143, "")),  # stopped by a signal
        ({0: 8, 1: 8}, (8, "")),
    ],
)
def test_the_first_failure_counts(codes: dict[int, int], expected: tuple[int, str]) -> None:
    assert _ended(codes) == expected


@pytest.mark.parametrize("codes", [{0: -9}, {0: -9, 1: -15}, {0: -11, 1: 143}])
def test_if_no_process_is_left_the_launcher_reports_the_loss(codes: dict[int, int]) -> None:
    with pytest.raises(ProcessError, match="process 1 was ended by SIG"):
        _ended(codes)
