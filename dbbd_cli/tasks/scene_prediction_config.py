"""The settings of predictions on scenes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dbbd_cli.config.sections import Section

Format = Literal["ply", "npz", "npy"]


class ScenePredictionConfig(Section):
    """What `predict` writes for each scene, and how large scenes are cut."""

    formats: Annotated[list[Format], Field(min_length=1)] = Field(
        ["ply", "npz"],
        description="ply: the points of the source with all their properties and the results; npz: an archive of "
        "arrays; npy: a folder of arrays in Pointcept's layout",
    )
    max_points: Annotated[int, Field(ge=1000, le=20_000_000)] = Field(
        500_000, description="points that are processed at once; larger scenes are cut into overlapping tiles"
    )
    margin: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.05, description="how far a tile reaches beyond the points that it decides on, as a fraction of their extent"
    )
