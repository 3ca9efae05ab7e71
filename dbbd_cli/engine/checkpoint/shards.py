"""The part of a checkpoint that is divided among processes: a folder with a file from each of them.

PyTorch's distributed checkpoints read and write it, as safetensors rather than as pickles, which could run code. The
checkpoint's own file has all else, and names the folder with the digests of its files. Any number of processes can
read it.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dbbd_cli.core.errors import CheckpointError, reason_of
from dbbd_cli.core.text import printable
from dbbd_cli.engine.processes import Processes
from dbbd_cli.engine.sharding import divided_as, is_shard, own_part, shards_of, with_shards, without_shards
from dbbd_cli.model.digest import sha256_of

SHARDS = "shards"
"""Key of the folder and its files in a checkpoint."""
_FOLDER = re.compile(r"shards-\d{1,12}(-\d{1,6})?", re.ASCII)
_FILE = re.compile(r"shard-\d{1,9}-model-\d{1,9}-of-\d{1,9}\.safetensors", re.ASCII)


def write_shards(state: Mapping[str, Any], folder: Path, processes: Processes) -> dict[str, Any]:
    """Write the divided tensors of a state into a new folder, each process its parts; all call this.

    Args:
        state: a training state.
        folder: the run folder; that of the first process counts.
        processes: all that have parts.

    Returns:
        The rest of the state, which names the folder.

    Raises:
        OSError: a process cannot write its parts.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save  # type: ignore[attr-defined]
    from torch.distributed.checkpoint.api import CheckpointException

    tensors = shards_of(state)
    place = Path(processes.of_first(str(_new_folder(folder, state["state"]["step"]))))
    own = place / f"shard-{processes.rank + 1:05}-model-00001-of-00001.safetensors"
    digest: str | None = None
    problem: OSError | None = None
    try:
        writer = HuggingFaceStorageWriter(str(place), save_distributed=True)
        save(tensors, storage_writer=writer, process_group=processes.group)
        digest = _digest_of_parts(own, tensors)
    except CheckpointException as error:  # in all processes
        failed = next(iter(error.failures.values()))[0]
        number = failed.errno if isinstance(failed, OSError) else None
        problem = OSError(number, reason_of(failed), str(place))
    except OSError as error:
        problem = error
    written = processes.everyone([own.name, digest, None if problem is None else [problem.errno, reason_of(problem)]])
    found = next((found for *_, found in written if found is not None), None)
    if found is not None:
        raise OSError(*found, str(place)) from problem
    if processes.is_first and os.name == "posix":
        _flush(place)
    files = {name: found for name, found, _ in written if found is not None}
    return {**without_shards(state), SHARDS: {"folder": place.name, "files": files}}


def _new_folder(folder: Path, step: int) -> Path:
    names = (f"shards-{step}{f'-{number}' if number else ''}" for number in count())
    return next(folder / name for name in names if not (folder / name).exists())


def _digest_of_parts(path: Path, tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The digest of the file that this process has written; None if it has no part of any tensor.

    Raises:
        OSError: the file has something else.
    """
    from safetensors import SafetensorError, safe_open

    parts = {name: part.cpu() for name, tensor in tensors.items() if (part := own_part(tensor)).numel()}
    if not parts:
        return None
    try:
        with safe_open(path, framework="pt") as file:
            is_good = all(torch.equal(file.get_tensor(name), part) for name, part in parts.items())
    except SafetensorError:
        is_good = False
    if not is_good:
        raise OSError(errno.EIO, "what was written reads back differently", str(path))
    return sha256_of(path)


def _flush(folder: Path) -> None:
    for place in (folder, folder.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def folder_of(checkpoint: object) -> str | None:
    """The name of the folder of a checkpoint's parts; None if it has none.

    Raises:
        ValueError: it is not such a name.
    """
    if not isinstance(checkpoint, Mapping) or SHARDS not in checkpoint:
        return None
    found = checkpoint[SHARDS]
    files = found.get("files") if isinstance(found, Mapping) else None
    if (
        not isinstance(files, Mapping)
        or not files
        or not all(isinstance(name, str) and _FILE.fullmatch(name) for name in files)
        or not isinstance(found.get("folder"), str)
        or not _FOLDER.fullmatch(found["folder"])
    ):
        raise ValueError("its record of the files of its parts is invalid")
    return str(found["folder"])


def verify_shards(checkpoint: Any, path: Path) -> None:
    """Check the files with a checkpoint's parts, if it has any.

    Raises:
        CheckpointError: one is missing or damaged.
    """
    try:
        name = folder_of(checkpoint)
        if name is None:
            return
        folder, files = path.with_name(name), checkpoint[SHARDS]["files"]
        found = {file.name for file in folder.iterdir() if file.suffix == ".safetensors"}
        other = next((file for file in sorted(found ^ files.keys())), None)
        if other is not None:
            raise ValueError(f"{printable(other)} is missing in {name}, or does not belong there")
        for file, digest in files.items():
            part = folder / file
            if not part.is_file() or sha256_of(part) != digest:
                raise ValueError(f"{name}/{file} is damaged: its SHA-256 does not match")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be used: {reason_of(error) if isinstance(error, OSError) else error}",
            hint="use another checkpoint of the run; a run folder means its newest intact one",
        ) from error


def with_whole_tensors(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint with the tensors that processes had divided, on the CPU; itself if there are none.

    Raises:
        CheckpointError: its files do not have them.
    """
    if folder_of(checkpoint) is None:
        return dict(checkpoint)
    tensors = {name: torch.empty(size, dtype=kind) for name, (size, kind) in _listed(checkpoint, path).items()}
    _fill(tensors, checkpoint, path)
    try:
        found = with_shards(checkpoint, tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # the file may contain anything
        raise _unusable(checkpoint, path, error) from error
    return {key: value for key, value in found.items() if key != SHARDS}


def divided(
    checkpoint: Mapping[str, Any], path: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """A checkpoint with tensors divided as those of a module and its optimizer; each process reads its parts.

    Args:
        checkpoint: with whole or with divided tensors.
        path: its file.
        module: the module, which is divided.
        optimizer: that of the module.

    Raises:
        CheckpointError: the files of the checkpoint do not have the tensors.
        ValueError: it is of another network.
    """
    own = {f"module.{name}": value for name, value in module.state_dict().items() if is_shard(value)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def like(name: str) -> torch.Tensor:
        """The tensor of the module that one of the checkpoint is divided as."""
        part, _, place = name.partition(".")
        index = place.partition(".")[0]
        if part == "optimizer" and index.isdigit() and int(index) < len(parameters):
            return parameters[int(index)]
        if name not in own:
            raise ValueError(f"{name} is unknown")
        return own[name]

    if folder_of(checkpoint) is None:
        tensors = {f"module.{name}": value for name, value in checkpoint["module"].items() if f"module.{name}" in own}
        for index, values in checkpoint["optimizer"]["state"].items():
            # A tensor for all weights of a parameter; the number of steps is not.
            of_weights = {key: value for key, value in values.items() if value.shape == parameters[index].shape}
            tensors |= {f"optimizer.{index}.{key}": value for key, value in of_weights.items()}
        return with_shards(checkpoint, {name: divided_as(like(name), value) for name, value in tensors.items()})
    listed = _listed(checkpoint, path)
    if other := sorted(own.keys() - listed.keys()):
        raise ValueError(f"{other[0]} is missing")
    tensors = {name: torch.zeros_like(like(name), dtype=kind) for name, (_, kind) in listed.items()}
    if other := [name for name, (size, _) in listed.items() if tensors[name].shape != size]:
        raise ValueError(f"{other[0]} has another shape")
    _fill(tensors, checkpoint, path)
    return with_shards(checkpoint, tensors)


def _reader(checkpoint: Mapping[str, Any], path: Path) -> Any:
    from torch.distributed.checkpoint import HuggingFaceStorageReader  # type: ignore[attr-defined]

    return HuggingFaceStorageReader(str(path.with_name(str(folder_of(checkpoint)))))


def _listed(checkpoint: Mapping[str, Any], path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shapes and types of the tensors that the files of a checkpoint have parts of, by name.

    Raises:
        CheckpointError: parts are missing.
    """
    try:
        tensors = _reader(checkpoint, path).read_metadata().state_dict_metadata
        for name, found in tensors.items():
            if sum(math.prod(chunk.sizes) for chunk in found.chunks) != math.prod(found.size):
                raise ValueError(f"parts of {name} are missing")
    except Exception as error:  # of any kind, as the files may contain anything
        raise _unusable(checkpoint, path, error) from error
    return {name: (found.size, found.properties.dtype) for name, found in tensors.items()}


def _fill(tensors: dict[str, torch.Tensor], checkpoint: Mapping[str, Any], path: Path) -> None:
    """Read the tensors, or the parts of them that this process has, from the files of a checkpoint."""
    from torch.distributed.checkpoint import load  # type: ignore[attr-defined]
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about reading alone
            load(tensors, storage_reader=_reader(checkpoint, path), no_dist=True)
    except CheckpointException as error:
        raise _unusable(checkpoint, path, next(iter(error.failures.values()))[0]) from error
    except Exception as error:
        raise _unusable(checkpoint, path, error) from error


def _unusable(checkpoint: Mapping[str, Any], path: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be used: {folder_of(checkpoint)} does not have its weights: {printable(reason_of(error))}",
        hint="use another checkpoint of the run",
    )


def copy_shards(checkpoint: Mapping[str, Any], path: Path, folder: Path) -> None:
    """Copy the parts of a checkpoint, if it has any, to another run folder.

    Raises:
        OSError: they cannot be copied.
    """
    name = folder_of(checkpoint)
    if name is not None:
        (folder / name).mkdir(exist_ok=True)
        for file in checkpoint[SHARDS]["files"]:
            shutil.copyfile(path.with_name(name) / file, folder / name / file)


def shards_in(folder: Path) -> set[str]:
    """The names of all folders of parts in a run folder."""
    return {place.name for place in folder.glob("shards-*") if _FOLDER.fullmatch(place.name) and place.is_dir()}
