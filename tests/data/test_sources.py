"""Data sets are got from the first source that has them whole, and from nowhere if they are there already."""

import functools
import gzip
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modum.data.idx import DataError
from modum.data.sources import DataSet, DebianPackage, Directory, Site, Source

CONTENTS = {"one.gz": b"one" * 1000, "two.gz": b"two" * 5}


def data_set(*sources: Source) -> DataSet:
    files = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    return DataSet("Numbers", files, sources, advice="Put the files into {directory}.")


def fill(directory: Path, contents: dict[str, bytes] = CONTENTS) -> Directory:
    """A source that has `contents`."""
    directory.mkdir()
    for name, content in contents.items():
        (directory / name).write_bytes(gzip.compress(content))
    return Directory(directory)


@pytest.fixture
def site(tmp_path: Path, serve: Callable[[Path], str]) -> Site:
    """A web site on this machine that has the contents."""
    return Site(serve(fill(tmp_path / "site").path))


def test_files_that_are_there_are_used_without_any_source(tmp_path: Path) -> None:
    fill(tmp_path / "here")
    assert data_set().load(tmp_path / "here") == CONTENTS


def test_the_first_source_that_has_the_files_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = fill(tmp_path / "first"), fill(tmp_path / "second")
    assert data_set(first, second).load(tmp_path / "here") == CONTENTS
    assert capsys.readouterr().err == f"Numbers: trying {first}\n"
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == sorted(CONTENTS)


def test_without_the_package_and_without_apt_the_files_come_from_the_web_site(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    installed = Directory(tmp_path / "not-installed")
    package = DebianPackage("modum-test-data", Path("/usr/share/modum-test-data"))
    assert data_set(installed, package, site).load(tmp_path / "here") == CONTENTS
    tried = [line.removeprefix("Numbers: trying ") for line in capsys.readouterr().err.splitlines()]
    assert tried == [str(installed), "Debian package modum-test-data", str(site)]


def test_a_source_with_a_damaged_file_is_passed_over(tmp_path: Path) -> None:
    forged = fill(tmp_path / "forged", {**CONTENTS, "two.gz": b"three"})
    truncated = fill(tmp_path / "truncated")
    (truncated.path / "one.gz").write_bytes((truncated.path / "one.gz").read_bytes()[:-4])
    no_gzip = fill(tmp_path / "no-gzip")
    (no_gzip.path / "one.gz").write_bytes(b"<html>not found</html>")
    whole = fill(tmp_path / "whole")
    assert data_set(forged, truncated, no_gzip, whole).load(tmp_path / "here") == CONTENTS


def test_a_damaged_file_in_the_directory_is_got_again(tmp_path: Path) -> None:
    fill(tmp_path / "here", {**CONTENTS, "two.gz": b"three"})
    assert data_set(fill(tmp_path / "whole")).load(tmp_path / "here") == CONTENTS
    assert gzip.decompress((tmp_path / "here" / "two.gz").read_bytes()) == CONTENTS["two.gz"]


def test_when_no_source_works_the_error_has_every_reason_and_the_way_out(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "site" / "two.gz").unlink()
    forged = fill(tmp_path / "forged", {**CONTENTS, "two.gz": b"three"})
    package = DebianPackage("modum-test-data", Path("/usr/share/modum-test-data"))
    nobody = Site("http://127.0.0.1:1/")
    with pytest.raises(DataError) as raised:
        data_set(forged, package, site, nobody).load(tmp_path / "here")
    title, *reasons, advice = str(raised.value).splitlines()
    assert title == "cannot get Numbers:"
    assert f"{forged}: two.gz is damaged: the SHA-256 of its content is" in reasons[0]
    assert "Debian package modum-test-data: apt-get is not on this machine" in reasons[1]
    assert f"{site}: 404 Client Error: File not found" in reasons[2]
    assert "http://127.0.0.1:1/: " in reasons[3]
    assert "Connection refused" in reasons[3]
    assert advice == f"Put the files into {tmp_path / 'here'}."
    assert list((tmp_path / "here").iterdir()) == []


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"cannot keep Numbers in {tmp_path}/file/here: .*Not a directory"):
        data_set(fill(tmp_path / "source")).load(tmp_path / "file" / "here")


def test_of_several_processes_at_once_one_gets_the_files(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.data.test_sources import *
print(data_set(Directory(Path("source"))).load(Path("here")) == CONTENTS)
"""
    fill(tmp_path / "source")
    start = functools.partial(subprocess.Popen, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    processes = [start([sys.executable, "-c", script], cwd=tmp_path, env=dict(os.environ)) for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in outputs] == ["True\n"] * 3, outputs
    assert sorted(err for _, err in outputs) == ["", "", "Numbers: trying source\n"]
