"""The documentation as a site: it builds without a warning, shows all public names and commands, needs no network."""

import ast
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import typer.main
from tests.docs.scripts import ROOT

from modum.cli.main import app

PAGES = ROOT / "docs" / "reference" / "python"
INTERNAL = {"checkpoints", "cli", "coordination", "observe", "run"}
"""Packages that are no part of the public interface."""
PACKAGES = sorted(
    file.parent.name for file in (ROOT / "src" / "modum").glob("*/__init__.py") if file.parent.name not in INTERNAL
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def documented(site: Path) -> set[str]:
    """Return the names that the reference has a place for."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines()}


def public_names(file: Path) -> list[str]:
    """Return what a module's `__all__` lists, without importing it."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_shows_all_public_names_of_a_package(package: str, documented: set[str]) -> None:
    names = public_names(ROOT / "src" / "modum" / package / "__init__.py")
    page = (PAGES / f"{package}.md").read_text()

    def is_shown(name: str) -> bool:
        # a function may have the name of its module, and stands below that then
        places = {f"modum.{package}.{name}", f"modum.{package}.{name}.{name}"}
        return bool(places & documented) or f"`modum.{package}.{name}`" in page

    assert names
    assert not [name for name in names if not is_shown(name)]


def test_the_reference_shows_all_names_of_modum_itself(documented: set[str]) -> None:
    page = (PAGES / "modum.md").read_text()
    names = public_names(ROOT / "src" / "modum" / "__init__.py")
    assert not [name for name in names if f"modum.{name}" not in documented and f"`modum.{name}`" not in page]


def test_the_reference_has_no_page_of_a_package_without_public_names() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*PACKAGES, "errors", "index", "modum"}


def test_the_reference_shows_all_commands(site: Path) -> None:
    page = (site / "reference" / "command-line.html").read_text()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert not [name for name in (*commands, "caffe-train") if f'<h2 id="modum-{name}">' not in page]


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r'<(script|img|iframe)[^>]* src="(https?:)?//|<link[^>]* rel="(stylesheet|icon)"[^>]* href="http'
    )
    assert not [page for page in site.rglob("*.html") if loads.search(page.read_text())]


def test_the_page_of_environment_variables_has_those_that_the_code_reads() -> None:
    read = {
        found
        for file in (ROOT / "src").rglob("*.py")
        if "testing" not in file.parts
        for found in re.findall(r'"(MODUM_[A-Z_]+)"', file.read_text())
    }
    page = (ROOT / "docs" / "reference" / "environment.md").read_text()
    assert read == set(re.findall(r"MODUM_[A-Z_]+", page))
