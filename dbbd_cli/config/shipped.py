"""The configurations that come with the package. Apart from what reads them, which takes long to import."""

from __future__ import annotations

from pathlib import Path


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    package = Path(__file__).resolve().parent.parent
    # A wheel carries them inside the package; in a checkout they lie beside it.
    folder = next((path for path in (package / "configs", package.parent / "configs") if path.is_dir()), package)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
