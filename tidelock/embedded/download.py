"""Downloads into a cache that projects share: resumed, verified, one writer at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import stamina
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from tidelock.embedded.artifacts import Artifact, maven_url
from tidelock.errors import Fatal

Say = Callable[[str], None]
Advance = Callable[[int], None]
_PARALLEL = 4
ATTEMPTS = 5


class _Transient(Exception):
    """A download that another attempt may complete; it never leaves this module."""


def cache_folder() -> Path:
    """Return the folder that projects share (`TIDELOCK_CACHE`, else `XDG_CACHE_HOME`/tidelock, else ~/.cache/tidelock)."""
    if own := os.environ.get("TIDELOCK_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "tidelock"
    return Path.home() / ".cache" / "tidelock"


@contextlib.contextmanager
def locked(path: Path, say: Say | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel lets go of it when the holder dies, however it dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+")
    except OSError as error:
        raise Fatal(
            f"cannot write below {path.parent}: {error.strerror}",
            hint="Free some space or fix its permissions; TIDELOCK_CACHE names another folder for downloads.",
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if say is not None:
                say(f"waiting for another tidelock that holds {path}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fetch(artifacts: Sequence[Artifact], *, cache: Path | None = None, say: Say | None = None) -> list[Path]:
    """Return the artifacts' files, downloading what the cache lacks.

    A file stands in its place only after its SHA-256 sum was checked, so a hit costs one look at its size.
    Raises Fatal when the repository cannot be reached, lacks a file, or serves another one than was pinned.
    """
    root = (cache or cache_folder()) / "maven"
    paths = [root / artifact.path for artifact in artifacts]
    if _missing(artifacts, root):
        with locked(root / ".lock", say):
            missing = _missing(artifacts, root)  # somebody else may have fetched them meanwhile
            with _reporter(missing, say) as advance, ThreadPoolExecutor(_PARALLEL) as pool, _client() as client:
                jobs = [pool.submit(download, artifact, root, client, advance(artifact)) for artifact in missing]
                try:
                    for job in jobs:
                        job.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    client.close()  # ends the downloads under way; their parts stay for the next attempt
                    raise
    return paths


def download(artifact: Artifact, root: Path, client: httpx.Client, advance: Advance) -> Path:
    """Download one artifact below `root`, resuming what an earlier attempt left. Raises Fatal."""
    target = root / artifact.path
    part = target.with_name(target.name + ".part")
    url = f"{maven_url()}/{artifact.path}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in stamina.retry_context(
            on=(_Transient, httpx.TransportError), attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=5.0
        ):
            with attempt:
                _transfer(client, url, part, artifact, advance)
    except (_Transient, httpx.TransportError) as error:
        reason = str(error) or type(error).__name__
        raise Fatal(
            f"cannot download {artifact.file_name} from {url}: {reason}",
            hint="Check the network and any proxy (HTTPS_PROXY), or name a mirror of Maven Central in TIDELOCK_MAVEN_URL; what has been downloaded is kept.",
        ) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Fatal(
            f"cannot write {part}: {'the disk is full' if full else error.strerror}",
            hint=f"{artifact.size_bytes / 1e6:.0f} MB are needed there; TIDELOCK_CACHE names another folder.",
        ) from error
    part.replace(target)
    return target


def unpack(archive: Path, target: Path) -> Path:
    """Unpack a tar archive once; `target` appears only when it is complete. Raises Fatal when it cannot be written."""
    if target.is_dir():
        return target
    with locked(target.with_name(target.name + ".lock")):
        if target.is_dir():
            return target
        fresh = target.with_name(target.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            with tarfile.open(archive) as tar:
                tar.extraction_filter = getattr(tarfile, "data_filter", None)  # missing before Python 3.11.4
                tar.extractall(fresh)  # noqa: S202 - our own archive, its sum was checked
        except (OSError, tarfile.TarError) as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise Fatal(
                f"cannot unpack {archive} to {target}: {error}",
                hint="Check the free space there; if the archive is damaged, delete it and run the command again.",
            ) from error
        fresh.replace(target)
    return target


def sha256(path: Path) -> str:
    """Return a file's SHA-256 sum in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _missing(artifacts: Sequence[Artifact], root: Path) -> list[Artifact]:
    def complete(path: Path, size_bytes: int) -> bool:
        return path.is_file() and path.stat().st_size == size_bytes

    return [artifact for artifact in artifacts if not complete(root / artifact.path, artifact.size_bytes)]


def _client() -> httpx.Client:
    return httpx.Client(follow_redirects=True, timeout=httpx.Timeout(30.0, connect=10.0))


def _transfer(client: httpx.Client, url: str, part: Path, artifact: Artifact, advance: Advance) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have > artifact.size_bytes:
        part.unlink()
        have = 0
    resumed = have > 0
    if have < artifact.size_bytes:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with client.stream("GET", url, headers=headers) as response:
            _check_status(response, url, part)
            append = response.status_code == httpx.codes.PARTIAL_CONTENT
            advance(have if append else 0)
            with part.open("ab" if append else "wb") as stream:
                for chunk in response.iter_raw():  # as it comes: a chunk held back would be lost when the line breaks
                    stream.write(chunk)
                    have = stream.tell()
                    advance(have)
    found_bytes = part.stat().st_size
    if found_bytes < artifact.size_bytes:
        raise _Transient(f"the transfer ended after {found_bytes} of {artifact.size_bytes} bytes")
    found = sha256(part)
    if found == artifact.sha256:
        return
    part.unlink()
    if resumed:  # the earlier part may have been of another file: once more from the start
        raise _Transient("the resumed file does not have the pinned SHA-256 sum")
    raise Fatal(
        f"{url} is not the file that was pinned: SHA-256 {found}, expected {artifact.sha256}",
        hint="Do not use it. Check TIDELOCK_MAVEN_URL and any proxy in between; `make lock` pins new files on purpose.",
    )


def _check_status(response: httpx.Response, url: str, part: Path) -> None:
    status = response.status_code
    if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.unlink(missing_ok=True)
        raise _Transient("the server refused to resume")
    if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise _Transient(f"the server answered {status}")
    if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        raise Fatal(
            f"cannot download {url}: the server answered {status} {response.reason_phrase}",
            hint="Check TIDELOCK_MAVEN_URL and any proxy in between: it must serve a whole Maven repository.",
        )


@contextlib.contextmanager
def _reporter(artifacts: Sequence[Artifact], say: Say | None) -> Iterator[Callable[[Artifact], Advance]]:
    """Yield what makes an `advance(bytes so far)` for an artifact: one bar for all on a terminal, else a line for each."""
    total = sum(artifact.size_bytes for artifact in artifacts)
    if say is None and sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(f"downloading {len(artifacts)} files", total=total)
            so_far: dict[str, int] = {}

            def bar(artifact: Artifact) -> Advance:
                def advance(done: int) -> None:
                    so_far[artifact.path] = done
                    bars.update(task, completed=sum(list(so_far.values())))

                return advance

            yield bar
        return
    tell = say or _plain

    def line(artifact: Artifact) -> Advance:
        def advance(done: int) -> None:
            if done >= artifact.size_bytes:
                tell(f"downloaded {artifact.file_name} ({artifact.size_bytes / 1e6:.1f} MB)")

        return advance

    yield line


def _plain(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
