"""Unpacking Debian packages, with the real apt-get and a repository of one package on this disk."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from modum.data import debian

PACKAGE = "modum-test-data"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point apt at a repository in `tmp_path` that has `PACKAGE`, and at no package lists."""
    if not Path("/usr/bin/apt-get").exists():
        pytest.skip("this machine has no apt-get")
    root = tmp_path / "repository"
    files = tmp_path / "package"
    (files / "DEBIAN").mkdir(parents=True)
    (files / "usr" / "share").mkdir(parents=True)
    (files / "usr" / "share" / "greeting").write_text("hello")
    control = f"Package: {PACKAGE}\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@localhost>\n"
    (files / "DEBIAN" / "control").write_text(control + "Description: a greeting\n")
    root.mkdir()
    archive = root / f"{PACKAGE}_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", files, archive], check=True, stdout=subprocess.DEVNULL)
    content = archive.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    stanza = f"Filename: ./{archive.name}\nSize: {len(content)}\nSHA256: {checksum}\nDescription: a greeting\n"
    (root / "Packages").write_text(control + stanza)
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb [trusted=yes] file:{root} ./\n")
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{sources}"; Dir::Etc::SourceParts "/dev/null";\n'
        f'Dir::State::Lists "{tmp_path}/lists"; Dir::Cache "{tmp_path}/cache";\n'
    )
    (tmp_path / "lists" / "partial").mkdir(parents=True)
    (tmp_path / "cache" / "archives" / "partial").mkdir(parents=True)
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return root


def test_a_package_is_unpacked_on_a_machine_without_package_lists(repository: Path, tmp_path: Path) -> None:
    debian.unpack(PACKAGE, tmp_path / "into")
    assert (tmp_path / "into" / "usr" / "share" / "greeting").read_text() == "hello"
    assert not list((tmp_path / "lists").glob("*Packages")), "the machine's own lists were changed"


def test_a_package_is_unpacked_into_a_relative_folder(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    debian.unpack(PACKAGE, Path("here"))
    assert (tmp_path / "here" / "usr" / "share" / "greeting").read_text() == "hello"


def test_a_package_that_does_not_exist_is_an_error_that_names_it(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"apt-get .* download modum-no-such-data failed with status 100: E: "):
        debian.unpack("modum-no-such-data", tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_a_package_whose_checksum_is_wrong_is_refused(repository: Path, tmp_path: Path) -> None:
    archive = repository / f"{PACKAGE}_1_all.deb"
    archive.write_bytes(archive.read_bytes()[:-1] + b"!")
    with pytest.raises(OSError, match="failed with status 100"):
        debian.unpack(PACKAGE, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_a_machine_without_apt_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get is not on this machine"):
        debian.unpack(PACKAGE, tmp_path / "into")
