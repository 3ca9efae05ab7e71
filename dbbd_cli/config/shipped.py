"""The configurations that come with the package. Separate from the loader, which is slow to import."""

from __future__ import annotations

from pathlib import Path


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    package = Path(__file__).resolve().parent.parent
    # In a wheel they are inside the package, in a checkout next to it.
    folder = next((path for path in (package / "configs", package.parent / "configs") if path.is_dir()), package)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
