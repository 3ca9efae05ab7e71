"""Files behind URLs: what identifies their content, and copies of them in the cache.

The libraries behind fsspec raise errors of their own, whose texts and tracebacks may contain passwords and signed
queries of URLs: only what `core.paths.shown_url` leaves is repeated in messages.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from dbbd_cli.core.errors import DataError, DbbdError, reason_of
from dbbd_cli.core.files import replace_file
from dbbd_cli.core.paths import shown_url, without_secrets
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.temporary import discard, temporary_file
from dbbd_cli.core.text import printable
from dbbd_cli.data.cache import disk_errors, entry_lock, make_room, mark_used

ATTEMPTS = 4
WAIT_SECONDS = 1.0
"""Pause before the second attempt; it doubles before each further one."""
STALLED_SECONDS = 60.0
"""A connection that transfers nothing for this long has failed."""
MAX_CONNECTIONS = 8
_PARTS_OF_A_SECOND = 0.2
_SECONDS_TO_STOP = 2.0
_EXTRAS = {"http": "remote", "https": "remote", "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "hf": "hf"}
"""The extra of this package that a protocol needs."""
_VERSIONS = {
    *("ETag", "Content-MD5", "Digest", "Last-Modified", "LastModified", "VersionId", "md5Hash", "generation"),
    *("updated", "mtime", "created", "blob_id", "lfs", "xet_hash"),
}
"""What fsspec says of a file, in one protocol or another, that changes with its content."""
_RETRIED_STATUS = (408, 425, 429)
_ON_DISK = (errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC))

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL.

    Attributes:
        url: its URL, which may contain a password or a signature.
        size: size in bytes; None if the server does not say.
        version: what changes with its content, as far as the server says.
    """

    url: str
    size: int | None
    version: str

    def copy_in(self, cache_dir: Path) -> Path:
        """The path of its copy in a cache, existing or not."""
        digest = hashlib.sha256(json.dumps([self.url, self.size, self.version]).encode()).hexdigest()
        name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(self.url).path).rpartition("/")[2], flags=re.ASCII)
        return cache_dir / f"remote-{digest[:32]}-{name[-80:]}"

    def is_in(self, cache_dir: Path) -> bool:
        """Whether a cache contains the copy."""
        copy = self.copy_in(cache_dir)
        return copy.is_file() and self.size in (None, copy.stat().st_size)


class _Stopped(Exception):  # noqa: N818 - not an error
    """The download was abandoned."""


class _Tally:
    """How many bytes all downloads have received; the `Callback` of fsspec for each of them."""

    def __init__(self) -> None:
        self.count = 0
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def callback(self) -> Any:
        from fsspec.callbacks import Callback

        tally = self

        class Counting(Callback):  # type: ignore[misc]
            def relative_update(self, inc: int = 1) -> None:
                if tally.stop.is_set():
                    raise _Stopped
                with tally._lock:
                    tally.count += inc

        return Counting()


def remote_files(urls: Sequence[str]) -> list[RemoteFile]:
    """Ask for size and version of files.

    Raises:
        DataError: one does not exist or cannot be reached, or its protocol is unknown or needs a package.
    """

    stop = threading.Event()

    def ask(url: str) -> RemoteFile:
        filesystem = _opened(url)
        info = _attempted(lambda: filesystem.info(url), url, stop)
        if info.get("type") == "directory":
            raise DataError(f"{shown_url(url)} is a folder, not a file", hint="check data.path")
        version = {key: str(info[key]) for key in sorted(_VERSIONS & info.keys())}
        return RemoteFile(url, info.get("size"), json.dumps(version))

    futures = _submitted(ask, urls)
    try:
        return [future.result() for future in futures]
    finally:
        stop.set()
        _cancel(futures)


def _submitted(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[Future[_Result]]:
    """The future results for items, several of which are worked on at a time.

    The threads are daemons, unlike those of an executor: the program can end while a server does not answer.
    """
    jobs = [(Future[_Result](), item) for item in items]
    waiting = deque(jobs)

    def run() -> None:
        with suppress(IndexError):
            while True:
                future, item = waiting.popleft()
                if future.set_running_or_notify_cancel():
                    try:
                        result = work(item)
                    except BaseException as error:
                        future.set_exception(error)
                    else:
                        future.set_result(result)

    for _ in range(min(MAX_CONNECTIONS, len(jobs))):
        threading.Thread(target=run, daemon=True).start()
    return [future for future, _ in jobs]


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()


def list_remote_folder(url: str) -> list[str]:
    """List the URLs of the entries of a folder.

    Raises:
        DataError: see `remote_files`.
    """
    filesystem = _opened(url)
    found = _attempted(lambda: filesystem.ls(url, detail=False), url)
    return sorted(str(filesystem.unstrip_protocol(entry)) for entry in found)


def local_copy(url: str, cache_dir: Path, progress: Progress) -> Path:
    """Return the copy of a file in the cache; it is downloaded if it is missing or has changed.

    Raises:
        DataError: see `remote_files`.
        DiskError: the copy cannot be written.
    """
    files = remote_files([url])
    download(files, cache_dir, progress)
    return files[0].copy_in(cache_dir)


def download(files: Iterable[RemoteFile], cache_dir: Path, progress: Progress) -> None:
    """Copy files to the cache, several at a time, unless it contains them.

    Processes that need the same file download it once. An interrupted download leaves nothing that would be used.

    Args:
        files: the files.
        cache_dir: folder of the cache.
        progress: shows a bar.

    Raises:
        DataError: a file cannot be read after `ATTEMPTS` attempts.
        DiskError: a copy cannot be written.
    """
    wanted = dict.fromkeys(files)
    missing = [file for file in wanted if not file.is_in(cache_dir)]
    for file in wanted.keys() - set(missing):
        mark_used(file.copy_in(cache_dir))
    if not missing:
        return
    with disk_errors(cache_dir):
        _make_room(missing, [file.copy_in(cache_dir) for file in wanted], cache_dir)
    tally = _Tally()
    megabytes = sum(file.size or 0 for file in missing) // 10**6
    with progress.phase("Downloading", megabytes, unit="MB") as bar:
        futures = set(_submitted(lambda file: _fetch(file, cache_dir, tally), missing))
        shown = 0
        try:
            while futures:
                done, futures = wait(futures, _PARTS_OF_A_SECOND)
                for future in done:
                    future.result()
                now = min(tally.count // 10**6, megabytes)  # what failed attempts have received counts, too
                bar.advance(now - shown)
                shown = now
            bar.advance(megabytes - shown)
        finally:
            tally.stop.set()
            _cancel(futures)
            wait(futures, _SECONDS_TO_STOP)  # they remove what is incomplete, unless they wait for a server


def _make_room(missing: Sequence[RemoteFile], wanted: Sequence[Path], cache_dir: Path) -> None:
    cache_dir.mkdir(parents=True, exist_ok=True)
    needed = sum(file.size or 0 for file in missing)
    make_room(cache_dir, needed, keep=wanted)
    free = shutil.disk_usage(cache_dir).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free")


def _fetch(file: RemoteFile, cache_dir: Path, tally: _Tally) -> None:
    """Download a file."""
    copy = file.copy_in(cache_dir)
    with entry_lock(copy), disk_errors(cache_dir):
        if file.is_in(cache_dir):  # by another process meanwhile
            return
        filesystem = _opened(file.url)
        temporary = temporary_file(copy)

        def fetch() -> None:
            filesystem.get_file(file.url, str(temporary), callback=tally.callback())
            size = temporary.stat().st_size
            if file.size not in (None, size):
                raise ConnectionError(f"{size:,} of {file.size:,} bytes were received")

        try:
            _attempted(fetch, file.url, tally.stop)
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            replace_file(temporary, copy)
        finally:
            discard(temporary)


def _opened(url: str) -> Any:
    """The file system of fsspec for a URL. No others than those of `_EXTRAS`: some read local files or run programs."""
    protocol = url.partition("://")[0].lower()
    if protocol not in _EXTRAS:
        raise DataError(
            f"{shown_url(url)}: the protocol {printable(protocol)} is not supported",
            hint=f"use one of {', '.join(_EXTRAS)}, or copy the files to this machine",
        )
    options: dict[str, Any] = {}
    try:
        import fsspec

        if protocol in ("http", "https"):
            import aiohttp

            # By default, a download may take no more than five minutes, and servers may compress what they send.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=STALLED_SECONDS, sock_read=STALLED_SECONDS)
            # What the user has configured counts too; what is given here would replace it.
            configured = fsspec.config.apply_config(fsspec.get_filesystem_class(protocol), {})
            options = {
                "client_kwargs": {"timeout": timeout, **configured.get("client_kwargs", {})},
                "headers": {"Accept-Encoding": "identity", **configured.get("headers", {})},
            }
        return fsspec.filesystem(protocol, **options)
    except ImportError:
        raise DataError(
            f"{shown_url(url)}: the package that reads {protocol}:// is not installed",
            hint=f'pip install "dbbd-cli[{_EXTRAS[protocol]}]"',
        ) from None
    except Exception as error:  # such as credentials that cannot be found
        raise _unavailable(url, error, attempts=1) from None


def _attempted(attempt: Callable[[], _Result], url: str, stop: threading.Event | None = None) -> _Result:
    """The result of a function that reads a URL, after several attempts if necessary.

    Raises:
        DataError: the last attempt failed, too, or another one would be in vain.
        OSError: the disk is full.
    """
    stop = stop or threading.Event()
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except (DbbdError, _Stopped):
            raise
        except Exception as error:  # libraries of protocols raise errors of their own
            if isinstance(error, OSError) and error.errno in _ON_DISK:
                raise
            if _is_final(error) or number == ATTEMPTS:
                raise _unavailable(url, error, number) from None
        if stop.wait(WAIT_SECONDS * 2 ** (number - 1)):
            break
    raise _Stopped


def _root(error: Exception) -> BaseException:
    """What is behind an error: fsspec reports every failure of a first HTTP request as a missing file."""
    cause = error.__cause__
    is_other = isinstance(cause, (ConnectionError, TimeoutError)) or type(cause).__module__.startswith("aiohttp.")
    return cause if cause is not None and is_other and isinstance(error, FileNotFoundError) else error


def _status(error: BaseException) -> int | None:
    """The status of HTTP that an error reports."""
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _is_final(error: Exception) -> bool:
    root, status = _root(error), _status(_root(error))
    if status is not None:
        return 400 <= status < 500 and status not in _RETRIED_STATUS
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError)
    return isinstance(root, lasting) or "Credential" in type(root).__name__


def _unavailable(url: str, error: Exception, attempts: int) -> DataError:
    root, status = _root(error), _status(_root(error))
    name = shown_url(url)
    if isinstance(root, FileNotFoundError) or status in (404, 410):
        return DataError(f"{name} does not exist", hint="check data.path")
    if isinstance(root, PermissionError) or status in (401, 403) or "Credential" in type(root).__name__:
        return DataError(
            f"{name} cannot be read: access is denied",
            hint="give credentials as the library for this protocol expects them, in environment variables or files",
        )
    tries = f" after {attempts} attempts" if attempts > 1 else ""
    return DataError(
        f"{name} cannot be read{tries}: {_reason(root, url)}",
        hint="check the connection and the server, then run the command again: files that were downloaded are kept",
    )


def _reason(error: BaseException, url: str) -> str:
    """What an error says, without what should stay secret of a URL."""
    parts = urlsplit(url)
    text = without_secrets(reason_of(error))
    secrets = [part for part in (parts.password, parts.username, parts.query) if part]
    return type(error).__name__ if any(secret in text for secret in secrets) else printable(text)
