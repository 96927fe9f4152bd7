"""Only the verified archive is kept, and only what was asked for comes out of it."""

from __future__ import annotations

import hashlib
import io
import shutil
import stat
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from slmquant import packages
from slmquant.errors import SourceError
from slmquant.packages import Package, extract, extract_member, fetch


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wheel(folder: Path, content: bytes = b"numbers") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_data-1.0-py3-none-any.whl"
    info = "tiny_data-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_data/model.bin", content)
        archive.writestr("tiny_data/deep/er/readme.txt", "hello")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def tarball(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            member.size = 4 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"data"))
    return path


def tiny_package(archive: Path) -> Package:
    return Package("pypi", "tiny-data", "1.0", hashlib.sha256(archive.read_bytes()).hexdigest(), 1000)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds packages in this folder and nowhere else."""
    folder = tmp_path / "index"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_a_package_is_fetched_once_and_then_found_without_an_index(index: Path) -> None:
    package = tiny_package(wheel(index))

    first = fetch(package)
    shutil.rmtree(index)

    assert hashlib.sha256(first.read_bytes()).hexdigest() == package.sha256
    assert fetch(package) == first


def test_a_damaged_archive_in_the_cache_is_fetched_again(index: Path) -> None:
    package = tiny_package(wheel(index))
    package.path.parent.mkdir(parents=True)
    package.path.write_bytes(b"half")

    assert hashlib.sha256(fetch(package).read_bytes()).hexdigest() == package.sha256


def test_a_wrong_checksum_names_both_values_and_keeps_nothing(index: Path, cache: Path) -> None:
    found = tiny_package(wheel(index)).sha256

    with pytest.raises(SourceError, match=f"{found}, expected {'0' * 64}"):
        fetch(Package("pypi", "tiny-data", "1.0", "0" * 64))

    assert list((cache / "packages").iterdir()) == []


def test_a_version_that_is_not_there_is_one_line_that_names_it(index: Path) -> None:
    wheel(index)

    with pytest.raises(SourceError, match=r"tiny-data==2\.0") as caught:
        fetch(Package("pypi", "tiny-data", "2.0", "0" * 64))

    assert "\n" not in str(caught.value)


def test_a_missing_client_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceError, match=r"npm is needed .* install Node\.js"):
        fetch(Package("npm", "tiny", "1.0", "0" * 64))

    monkeypatch.setattr("slmquant.packages.importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SourceError, match=f"pip is needed .* {sys.executable} -m ensurepip"):
        fetch(Package("pypi", "tiny-data", "1.0", "0" * 64))


def test_a_full_disk_is_told_before_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("slmquant.files.shutil.disk_usage", lambda _path: usage._replace(free=1_000_000))

    with pytest.raises(SourceError, match=r"2 GB are needed .* 1 MB are free"):
        fetch(Package("pypi", "tiny-data", "1.0", "0" * 64, archive_bytes=1_000_000_000))


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("Failed to establish a new connection: NewConnectionError", "cannot reach the npm registry"),
        ("npm error code ENOTFOUND", "cannot reach the npm registry"),
        ("npm error code E404", "has no tiny@1.0"),
        ("OSError: [Errno 28] No space left on device", "disk became full"),
        ("npm error something odd\nmore", "failed: something odd"),
        ("", "gave no reason"),
    ],
)
def test_what_a_client_says_becomes_one_line(log: str, told: str) -> None:
    line = packages._explained(Package("npm", "tiny", "1.0", "0"), log)

    assert told in line
    assert "\n" not in line


def test_a_prefix_takes_its_files_with_their_relative_names(tmp_path: Path) -> None:
    written = extract(wheel(tmp_path), "tiny_data/deep", tmp_path / "out")

    assert written == [tmp_path / "out/er/readme.txt"]
    assert written[0].read_text() == "hello"


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file under 'tiny'"):
        extract(wheel(tmp_path), "tiny", tmp_path / "out")


def test_one_member_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    path = extract_member(wheel(tmp_path), "tiny_data/model.bin", tmp_path / "weights")

    assert path.read_bytes() == b"numbers"
    with pytest.raises(SourceError, match="no file 'tiny_data/absent'"):
        extract_member(wheel(tmp_path), "tiny_data/absent", tmp_path / "weights")


@pytest.mark.parametrize("name", ["../outside", "package/../../outside", "/outside", "package\\..\\outside"])
def test_a_name_that_points_outside_is_refused(tmp_path: Path, name: str) -> None:
    archive = tarball(tmp_path / "a.tgz", tarfile.TarInfo(name))

    with pytest.raises(SourceError):
        extract(archive, "", tmp_path / "deep" / "out")

    assert not list(tmp_path.rglob("outside*"))


def test_links_and_devices_are_never_unpacked(tmp_path: Path) -> None:
    link, hard, pipe = (tarfile.TarInfo(f"package/{name}") for name in ("link", "hard", "pipe"))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "package/real"
    pipe.type = tarfile.FIFOTYPE
    archive = tarball(tmp_path / "a.tgz", tarfile.TarInfo("package/real"), link, hard, pipe)

    assert extract(archive, "package", tmp_path / "out") == [tmp_path / "out/real"]


def test_a_link_in_a_zip_is_passed_over(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("package/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")

    with pytest.raises(SourceError, match="no file"):
        extract_member(tmp_path / "a.zip", "package/link", tmp_path / "out")


def test_a_truncated_archive_is_called_damaged_and_leaves_nothing(tmp_path: Path) -> None:
    large = tarfile.TarInfo("package/large")
    large.size = 1 << 20
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as archive:
        noise = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(1 << 15))
        archive.addfile(large, io.BytesIO(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(SourceError, match="is damaged"):
        extract_member(path, "package/large", tmp_path / "out" / "large")

    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_no_archive_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"<html>sign in</html>")

    with pytest.raises(SourceError, match="is damaged"):
        extract(tmp_path / "a.whl", "", tmp_path / "out")


@pytest.mark.network
def test_the_smallest_data_package_is_what_it_was() -> None:
    package = Package(
        "pypi",
        "exllamav3",
        "1.6.5",
        "550c0d04c755f249840e5c1edc26b0e80c7342c33b5d99ad17479abb407e8ded",
        3_900_000,
    )

    assert zipfile.is_zipfile(fetch(package))
