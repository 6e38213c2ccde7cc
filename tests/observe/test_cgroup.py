"""Limits of control groups, read from trees of files such as the kernel shows."""

from pathlib import Path

import pytest

from modum.observe.cgroup import Limits, read_limits


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A machine below `root` on which this process is in `groups`, with `files` below /sys/fs/cgroup."""
    for name, content in {"../../../proc/self/cgroup": groups, **files}.items():
        file = root / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        pytest.param("0::/\n", {}, Limits(None, None), id="version 2, no controllers"),
        pytest.param(
            "0::/\n",
            {"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"},
            Limits(1.5, 2**30),
            id="version 2, container",
        ),
        pytest.param(
            "0::/job/step\n",
            {
                "job/step/cpu.max": "max 100000\n",
                "job/cpu.max": "400000 100000\n",
                "job/step/memory.max": "4096\n",
                "job/memory.max": "8192\n",
                "memory.max": "max\n",
            },
            Limits(4.0, 4096),
            id="version 2, the tightest of a hierarchy",
        ),
        pytest.param(
            "4:memory:/docker/1\n2:cpu,cpuacct:/docker/1\n",
            {
                "memory/docker/1/memory.limit_in_bytes": "8192\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "cpu/docker/1/cpu.cfs_quota_us": "50000\n",
                "cpu/docker/1/cpu.cfs_period_us": "100000\n",
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            Limits(0.5, 8192),
            id="version 1",
        ),
        pytest.param(
            "4:memory:/docker/1\n",
            {"memory/memory.limit_in_bytes": "8192\n"},
            Limits(None, 8192),
            id="version 1, container that sees its own group as the top",
        ),
    ],
)
def test_the_tightest_limit_counts(tmp_path: Path, groups: str, files: dict[str, str], limits: Limits) -> None:
    (tmp_path / "sys" / "fs" / "cgroup").mkdir(parents=True)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    assert read_limits(machine(tmp_path, groups, files)) == limits


def test_this_machine_has_limits_that_make_sense() -> None:
    limits = read_limits()
    assert limits.cores is None or limits.cores > 0
    assert limits.memory is None or limits.memory > 2**20
