"""What the doctor says of a machine that is in trouble."""

import dataclasses
import os

from modum.observe import doctor, machine
from modum.observe.rdma import PortReport, RdmaReport


def test_rdma_devices_are_shown_with_what_is_missing() -> None:
    nothing = RdmaReport(ports=[], ucx=None, ucx_modules=[], ucx_trouble=None, locked_memory_bytes=65536)
    assert nothing.lines() == []
    port = PortReport(
        name="mlx5_0:1", state="ACTIVE", link="Ethernet 100 Gb/sec", interface="eth2", gids=["fe80::1"], trouble=None
    )
    down = dataclasses.replace(port, name="mlx5_1:1", state="DOWN", interface="eth3", gids=[])
    found = RdmaReport(
        ports=[port, down], ucx="1.13.1", ucx_modules=["cma", "ib"], ucx_trouble=None, locked_memory_bytes=65536
    )
    lines = {topic: (finding, trouble) for topic, finding, trouble in found.lines()}
    assert lines["rdma mlx5_0:1"] == ("ACTIVE, Ethernet 100 Gb/sec, interface eth2, 1 GIDs: fe80::1", "")
    assert lines["rdma mlx5_1:1"][1] == "not active: bring its interface up: ip link set eth3 up"
    assert lines["ucx"] == ("1.13.1 with cma, ib", "")
    assert lines["registered memory"][0] == "at most 64 KiB"
    assert "ulimit -l unlimited" in lines["registered memory"][1]
    without = dataclasses.replace(found, ucx=None, ucx_trouble="UCX cannot be loaded", locked_memory_bytes=None)
    lines = {topic: (finding, trouble) for topic, finding, trouble in without.lines()}
    assert lines["ucx"] == ("cannot be used", "UCX cannot be loaded")
    assert lines["registered memory"] == ("any amount", "")


def test_what_is_wrong_stands_in_its_own_row_and_nowhere_else() -> None:
    ill = dataclasses.replace(
        machine.examine(),
        cores_allowed=8,
        cores_quota=2.5,
        memory_quota_bytes=2**30,
        packages={"numpy": "2.0", "torch": None},
        shared_memory_trouble="Operation not permitted",
        descriptors_soft=256,
        transports={"local": None, "tcp": "no network"},
        port=7500,
        addresses={"127.0.0.1": "Address already in use", "10.0.0.5": None},
        loopback_bytes_per_second=0.0,
        loopback_trouble="timed out",
    )
    rows = {row.topic: (row.finding, row.trouble) for row in doctor.rows(ill)}
    assert rows["packages"] == ("numpy 2.0; not installed: torch", "")
    assert rows["cores"] == (f"2 usable: 8 of {os.cpu_count()} allowed, quota of 2.5", "")
    assert rows["memory"][0].endswith(" available, limit 1 GiB")
    assert rows["shared memory"] == ("does not work", "Operation not permitted")
    assert rows["file descriptors"][1] == "fewer than 1024: raise it with `ulimit -n 1024`"
    assert rows["transport local"] == ("can be used", "")
    assert rows["transport tcp"] == ("cannot be used", "no network")
    assert rows["listen on 127.0.0.1"] == ("port 7500 cannot be used", "Address already in use")
    assert rows["listen on 10.0.0.5"] == ("port 7500 is free; servers there need a token", "")
    assert rows["tcp over loopback"] == ("does not work", "timed out")
    assert sum(bool(trouble) for _, trouble in rows.values()) == 5
