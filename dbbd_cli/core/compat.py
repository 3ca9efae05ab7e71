"""Private or unstable parts of libraries: every use in the package is here, with its reason and a test."""

from __future__ import annotations

import pickle
import re

_REFUSED_GLOBAL = re.compile(r"(?:GLOBAL|[Cc]lass) ([\w.]{1,200})")


def refused_global(error: BaseException) -> str | None:
    """The function or class that `torch.load(weights_only=True)` refused, from the text of its error.

    PyTorch has no attribute for it. If it words the message differently, errors no longer name the code; that is all.
    """
    found = _REFUSED_GLOBAL.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    return found[1] if found else None
