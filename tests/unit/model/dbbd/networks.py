"""Networks of DBBD from the settings of all their parts."""

from __future__ import annotations

import inspect
from typing import Any

from dbbd_cli.model.dbbd.description import DescriptionLoss
from dbbd_cli.model.dbbd.encoder import DbbdEncoder
from dbbd_cli.model.dbbd.loss import DbbdLoss
from dbbd_cli.model.dbbd.pretraining import DbbdPretraining


def make_dbbd(*, description_groups: tuple[int, ...] = (), num_levels: int = 5, **settings: Any) -> DbbdPretraining:
    """A network with random weights; each setting goes to the part that has an argument of this name."""

    def of(part: type) -> dict[str, Any]:
        return {name: settings.pop(name) for name in inspect.signature(part).parameters if name in settings}

    size = settings["output_dim"]
    encoder, loss = DbbdEncoder(**of(DbbdEncoder)), DbbdLoss(input_dim=size, **of(DbbdLoss))
    if settings.get("description_weight"):
        settings["description"] = DescriptionLoss(input_dim=size, groups=description_groups, num_levels=num_levels)
    return DbbdPretraining(encoder, loss, **settings)
