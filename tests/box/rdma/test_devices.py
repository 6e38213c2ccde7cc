"""RDMA devices as the kernel shows them, and what is said where they are missing."""

import os
from pathlib import Path

import pytest

from modum.box import Box, Server
from modum.box.rdma import devices
from modum.errors import TransportError


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up /sys/class/infiniband and /dev/infiniband: two ports, of which one is active."""
    for name, state in (("mlx5_0", "4: ACTIVE"), ("mlx5_1", "1: DOWN"), ("mlx5_2", "4: ACTIVE")):
        port = tmp_path / "class" / name / "ports" / "1"
        (port / "gids").mkdir(parents=True)
        (port / "state").write_text(f"{state}\n")
        (port / "link_layer").write_text("Ethernet\n")
        (port / "rate").write_text("100 Gb/sec (4X EDR)\n")
        (port / "gids" / "0").write_text("fe80:0000:0000:0000:0000:0000:0000:0001\n")
        (port / "gids" / "1").write_text("0000:0000:0000:0000:0000:0000:0000:0000\n")
        (tmp_path / "class" / name / "device" / "net" / f"eth-{name}").mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "uverbs0").touch()
    monkeypatch.setattr(devices, "CLASS", tmp_path / "class")
    monkeypatch.setattr(devices, "NODES", tmp_path / "dev")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.delenv("UCX_NET_DEVICES", raising=False)
    return tmp_path


def test_active_ports_are_rails_in_the_order_that_was_asked_for(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.why_no_rails() is None
    assert devices.rails() == ["mlx5_0:1", "mlx5_2:1"]
    monkeypatch.setenv("UCX_NET_DEVICES", "mlx5_2:1,mlx5_1:1,mlx5_0:1")
    assert devices.rails() == ["mlx5_2:1", "mlx5_0:1"]
    first = devices.ports()[0]
    assert (first.link, first.interface, first.gids()) == (
        "Ethernet 100 Gb/sec (4X EDR)",
        "eth-mlx5_0",
        ["fe80:0000:0000:0000:0000:0000:0000:0001"],
    )


def test_what_is_missing_is_named(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as asked:
        asked.setenv("UCX_NET_DEVICES", "mlx5_1:1")
        assert "among UCX_NET_DEVICES=mlx5_1:1: mlx5_0:1 is ACTIVE, mlx5_1:1 is DOWN" in (devices.why_no_rails() or "")
    (kernel / "dev" / "uverbs0").rename(kernel / "dev" / "other")
    assert "modprobe ib_uverbs" in (devices.why_no_rails() or "")
    monkeypatch.setattr(devices, "CLASS", kernel / "none")
    assert devices.why_no_rails() == "this machine has no RDMA device"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "x86-64, this is aarch64" in (devices.why_no_rails() or "")


@pytest.mark.skipif(not devices.why_no_rails(), reason="this machine has RDMA devices")
def test_rdma_that_cannot_be_had_is_an_error_and_loads_nothing() -> None:
    with Server() as server:
        with pytest.raises(TransportError, match="'rdma' cannot be used here: this machine has no RDMA device"):
            Box.connect(server.address, transport="rdma")
    assert not any("libucp" in line for line in Path(f"/proc/{os.getpid()}/maps").read_text().splitlines())
