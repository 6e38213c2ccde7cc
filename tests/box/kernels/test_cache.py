"""The compiled kernels are kept where that can be done safely, and compiled anew elsewhere."""

import os
import stat
import subprocess
import sys
from pathlib import Path

# files of root can always be written: Numba is told that the folder of the source cannot
ADD = """
from numba.core import caching
caching.InTreeCacheLocator.from_function = classmethod(lambda *_: None)
import numpy as np
from modum.box.kernels import fused
target = np.ones(3, np.float32)
fused.add("float32", target, np.ones(3, np.float32), np.float32(2))
print(target.tolist())
"""


def add(temporary: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Use a kernel in a process whose user has no home."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    }
    environment |= {"HOME": "/dev/null/nowhere", "TMPDIR": str(temporary), **variables}
    return subprocess.run([sys.executable, "-c", ADD], capture_output=True, text=True, env=environment, check=False)


def test_without_a_home_they_are_kept_in_a_folder_of_this_users_own(tmp_path: Path) -> None:
    result = add(tmp_path)
    assert result.stdout == "[3.0, 3.0, 3.0]\n", result.stderr
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"modum-kernels-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb?")}
    assert len(kept) == 2
    assert add(tmp_path).stdout == "[3.0, 3.0, 3.0]\n"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb?")} == kept


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / f"modum-kernels-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    result = add(tmp_path)
    assert result.stdout == "[3.0, 3.0, 3.0]\n"
    assert "is not a folder of this user alone" in result.stderr
    assert list(folder.iterdir()) == []
    elsewhere = tmp_path / "elsewhere"
    folder.rmdir()
    folder.symlink_to(elsewhere)
    elsewhere.mkdir(mode=0o700)
    assert add(tmp_path).stdout == "[3.0, 3.0, 3.0]\n"
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_the_user_names_is_used(tmp_path: Path) -> None:
    chosen, temporary = tmp_path / "chosen", tmp_path / "temporary"
    temporary.mkdir()
    assert add(temporary, NUMBA_CACHE_DIR=str(chosen)).stdout == "[3.0, 3.0, 3.0]\n"
    assert list(chosen.rglob("*.nbi"))
    assert list(temporary.iterdir()) == []
