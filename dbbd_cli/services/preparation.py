"""What is done for a new run before PyTorch is loaded, which takes seconds: settings and data are checked first."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dbbd_cli.config.schema import Config
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.files import write_text
from dbbd_cli.core.paths import leave_missing_folder
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import printable
from dbbd_cli.data.cache_dir import cache_folder, fallback_note
from dbbd_cli.data.images.manifest import make_manifest
from dbbd_cli.data.images.sources import Source, list_classes, list_folder, list_synthetic, list_urls
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.scenes.cache import SceneSettings
from dbbd_cli.data.scenes.manifest import make_room_manifest, make_scene_manifest
from dbbd_cli.runs.folder import SPLITS, check_run_folder
from dbbd_cli.tasks.dbbd.config import PointPretrainingConfig
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig, ImageDataConfig


def prepare_run(config: Config, progress: Progress) -> tuple[Config, Manifest]:
    """Checks what a new run needs and makes its manifest.

    Returns:
        The configuration with absolute paths, and the samples with their splits.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    config = with_absolute_paths(config)
    leave_missing_folder()
    check_run_folder(Path(config.run.runs_dir), config.run.name)
    if config.run.device not in ("auto", "cpu") or config.run.precision == "fp16":
        # Only PyTorch knows what this machine can do, and the data may take long.
        from dbbd_cli.engine.runtime import choose_runtime

        choose_runtime(config.run.device, config.run.precision)
    weights = config.model.weights
    if weights not in ("none", "default") and not os.path.isfile(weights):  # noqa: PTH113 - a Path raises where its name is too long
        raise CheckpointError(
            f"model.weights: {printable(weights)} does not exist", hint="check the path, or set it to none"
        )
    tell_of_cache(config, progress)
    return config, make_run_manifest(config, progress)


def make_run_manifest(config: Config, progress: Progress) -> Manifest:
    """The samples of a new run with their splits.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    if isinstance(config, PointPretrainingConfig):
        return _make_point_manifest(config, progress)
    return _make_image_manifest(config, progress)


def manifest_of_run(folder: Path, config: Config, digest: object, progress: Progress) -> Manifest:
    """The list of samples of a run. If it is lost, and the data is synthetic, it is rebuilt and stored.

    Raises:
        CheckpointError: it is missing or damaged, and cannot be rebuilt as it was.
    """
    path, lost = folder / SPLITS, None
    try:
        manifest = Manifest.load(path)
        if manifest.digest() == digest:
            return manifest
    except CheckpointError as error:
        lost = error
    if config.data.source == "synthetic":
        rebuilt = make_run_manifest(config, progress)
        if rebuilt.digest() == digest:
            what = "is not that of the run" if lost is None else "is damaged" if path.exists() else "is missing"
            progress.warn(f"{path} {what}. It was rebuilt from the settings and matches the checkpoint.")
            with suppress(OSError):  # the folder may be read-only
                write_text(path, rebuilt.to_json())
            return rebuilt
    if lost is not None:
        raise lost
    return manifest


def tell_of_cache(config: Config, progress: Progress) -> None:
    """Says so if prepared data is not kept in the usual folder."""
    if note := fallback_note(config.data.cache_dir):
        progress.line(printable(note))


def _make_image_manifest(config: ImageClassificationConfig, progress: Progress) -> Manifest:
    data = config.data
    return make_manifest(
        _list_images(config),
        sample_per_class=data.sample_per_class,
        tell_limit="sample_per_class" in data.model_fields_set,
        shares=(data.split.train, data.split.val, data.split.test),
        group_by_host=data.split.group == "host",
        on_error=data.on_error,
        image_size=data.image_size,
        cache_dir=cache_folder(data.cache_dir),
        seed=config.seed,
        progress=progress,
    )


def _list_images(config: ImageClassificationConfig) -> Source:
    data = config.data
    if data.source == "folder":
        assert data.path is not None
        return list_folder(Path(data.path))
    if data.source == "classes":
        assert data.classes is not None
        return list_classes({name: Path(folder) for name, folder in data.classes.items()})
    if data.source == "urls":
        assert data.path is not None
        return list_urls(Path(data.path), data.url_column, data.label_column)
    return list_synthetic(data.sample_per_class or 5000, config.seed)


def _make_point_manifest(config: PointPretrainingConfig, progress: Progress) -> Manifest:
    data = config.data
    shares = (data.split.train, data.split.val, data.split.test)
    max_scenes = {"train": data.max_train_scenes, "val": data.max_val_scenes, "test": data.max_test_scenes}
    if data.source == "synthetic":
        return make_room_manifest(
            data.synthetic_scenes,
            num_points=data.synthetic_points,
            shares=shares,
            max_scenes=max_scenes,
            seed=config.seed,
        )
    if data.path is None:
        raise ConfigError(
            "data.path is not set: the scenes are wanted from a folder",
            hint="say where they are with --set data.path=DIR; without any, try --set data.source=synthetic",
        )
    return make_scene_manifest(
        Path(data.path),
        shares=shares,
        max_scenes=max_scenes,
        needs_colour="colour" in data.features,
        needs_normals="normals" in data.features,
        follow_links=data.follow_links,
        on_error=data.on_error,
        settings=SceneSettings(**data.preparation),
        cache_dir=cache_folder(data.cache_dir),
        seed=config.seed,
        progress=progress,
    )


def with_absolute_paths(config: Config) -> Config:
    """The configuration with paths that hold from any working directory.

    Raises:
        ConfigError: the home of an unknown user is meant.
    """
    data, weights = config.data, config.model.weights
    paths: dict[str, object] = {"path": _absolute(data.path), "cache_dir": _absolute(data.cache_dir)}
    if isinstance(data, ImageDataConfig) and data.classes:
        paths["classes"] = {name: _absolute(folder) for name, folder in data.classes.items()}
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"runs_dir": _absolute(config.run.runs_dir)}),
            "data": data.model_copy(update=paths),
            "model": config.model.model_copy(
                update={"weights": weights if weights in ("none", "default") else _absolute(weights)}
            ),
        }
    )


def _absolute(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return str(Path(path).expanduser().resolve())
    except FileNotFoundError:  # the current folder has been removed
        raise
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(
            f"{printable(path)}: {getattr(error, 'strerror', None) or error}", hint="write the path in full"
        ) from error
