"""What holds of the whole package and no single test of a room can see."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "modum"

MAY_READ_THE_ENVIRONMENT = {
    "box/rdma": "UCX has its settings there, and MODUM_RDMA_DEVICES goes with them",
    "cli": "options have variables",
    "cluster": "learns there what the launcher told this process",
    "data/debian.py": "for apt, in plain English",
    "data/directory.py": "for XDG_CACHE_HOME",
    "job.py": "joins the job that the environment describes",
    "run": "for the workers that it starts",
    "testing/leaks.py": "marks the processes that a test starts",
    "testing/environment.py": "tries out what a launcher's variables mean",
    "torch/group.py": "Gloo and NCCL take their network interface from there alone",
}

OTHERS_PRIVATE_NAMES = {
    "_set_pg_timeout": "torch: the timeout of a group that is made",
    "_exit": "os: ends a process whose group is broken, without waiting for the others",
    "_layer_names": "pycaffe's scripts use it",
    "_inbound_nodes": "Keras tells in no other way how often a layer was called",
}

MAY_SLEEP = {
    "box/client/connection.py": "between attempts to connect, by a deadline",
    "box/memory/locks.py": "pauses that grow, by a deadline",
    "box/rdma/client.py": "between attempts to make a link anew, by a deadline",
    "box/rdma/ucx.py": "between calls that move requests on, by a deadline",
    "box/server/replication/council.py": "between ballots, by a deadline",
    "box/server/replication/log.py": "between chunks that are copied, so that others have their turn",
    "cli/status.py": "measures for as long as the user asks for",
    "testing/leaks.py": "collects garbage meanwhile, by a deadline",
    "waiting.py": "the one loop that waits",
}


def files(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(folder.rglob("*.py"))


def reads_environment(tree: ast.AST) -> bool:
    """Whether a module touches `os.environ` or its like, under whatever name `os` has there."""
    names = {"environ", "environb", "getenv", "putenv", "unsetenv"}
    return any(
        (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {name.name for name in node.names})
        for node in ast.walk(tree)
    )


def test_the_environment_is_read_where_the_list_says_and_nowhere_else() -> None:
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for path in files(PACKAGE)
        if reads_environment(ast.parse(path.read_text()))
    }
    allowed = {
        name: {reader for reader in readers if reader == name or reader.startswith(f"{name}/")}
        for name in MAY_READ_THE_ENVIRONMENT
    }
    assert readers - set[str]().union(*allowed.values()) == set()
    assert [name for name, found in allowed.items() if not found] == [], "these need not be in the list any more"


def test_only_who_starts_or_joins_a_job_asks_which_launcher_started_this_process() -> None:
    """A worker's place is read once, by `modum.connect`, and handed on in a `Job`."""
    askers = {
        path.relative_to(PACKAGE).parts[0]
        for path in files(PACKAGE)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name | ast.Attribute)
        and (node.id if isinstance(node, ast.Name) else node.attr) == "detect"
    }
    assert askers == {"cli", "cluster", "job.py", "testing"}


@pytest.mark.parametrize("folder", ["tests", "bench", "examples"])
def test_nobody_outside_of_the_package_reaches_for_private_names(folder: str) -> None:
    """Names that begin with one underscore, of objects other than `self` and `cls`, and in imports from Modum."""
    found = []
    for path in files(ROOT / folder):
        tree = ast.parse(path.read_text())
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                value = node.value
                names = [] if isinstance(value, ast.Name) and value.id in {"self", "cls"} else [node.attr]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modum"):
                names = [name.name for name in node.names]
            else:
                continue
            found += [
                f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
                for name in names
                if name.startswith("_") and not name.startswith("__") and name not in own | OTHERS_PRIVATE_NAMES.keys()
            ]
    assert found == []


def test_whoever_sleeps_is_known() -> None:
    """Loops that wait for something do it by `modum.waiting`, but for a few with more to do than to look."""
    sleepers = {
        path.relative_to(PACKAGE).as_posix()
        for path in files(PACKAGE)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and ast.unparse(node.value) == "time"
    }
    assert sleepers == set(MAY_SLEEP)
