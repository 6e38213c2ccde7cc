"""Judge for `modum doctor` what `machine` found: what is wrong, and what to do about it."""

import ipaddress
from dataclasses import dataclass
from typing import Final

from modum.observe.machine import Report
from modum.units import format_bytes

__all__ = ["Row", "rows"]

_ENOUGH_DESCRIPTORS: Final = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """A line for people."""

    topic: str
    finding: str
    trouble: str = ""
    """What is wrong and what to do about it; empty if all is well."""


def rows(report: Report) -> list[Row]:
    """Return the report for people, line by line."""
    installed = [f"{name} {version}" for name, version in report.packages.items() if version]
    missing = [name for name, version in report.packages.items() if not version]
    quota = "" if report.cores_quota is None else f", quota of {report.cores_quota:g}"
    limit = "" if report.memory_quota_bytes is None else f", limit {format_bytes(report.memory_quota_bytes)}"
    total, available = format_bytes(report.memory_total_bytes), format_bytes(report.memory_available_bytes)
    return [
        Row("modum", f"{report.modum} on Python {report.python}, {report.system}"),
        Row("packages", ", ".join(installed) + f"; not installed: {', '.join(missing) or 'none'}"),
        *_system_files(report),
        Row("processor", report.processor),
        Row("cores", f"{report.usable_cores} usable: {report.cores_allowed} of {report.cores_online} allowed{quota}"),
        Row("memory", f"{total}, {available} available{limit}"),
        Row(
            "memory bandwidth",
            f"{_speed(report.memory_bytes_per_second)} with one thread, "
            f"{_speed(report.memory_all_cores_bytes_per_second)} with {report.usable_cores}",
        ),
        Row(
            "shared memory",
            "does not work" if report.shared_memory_trouble else "memfd, mapping and chunk locks work",
            report.shared_memory_trouble or "",
        ),
        Row(
            "file descriptors",
            f"at most {report.descriptors_soft}, can be raised to {report.descriptors_hard}",
            f"fewer than {_ENOUGH_DESCRIPTORS}: raise it with `ulimit -n {_ENOUGH_DESCRIPTORS}`"
            if report.descriptors_soft < _ENOUGH_DESCRIPTORS
            else "",
        ),
        *(_transport(report, name, reason) for name, reason in report.transports.items()),
        *(Row(*line) for line in report.rdma.lines()),
        *(
            Row(f"listen on {address}", _port(report.port, address, reason), reason or "")
            for address, reason in report.addresses.items()
        ),
        Row(
            "tcp over loopback",
            "does not work" if report.loopback_trouble else _speed(report.loopback_bytes_per_second),
            report.loopback_trouble or "",
        ),
    ]


def _system_files(report: Report) -> list[Row]:
    if not report.unreadable:
        return []
    return [
        Row(
            "system files",
            f"cannot be read: {', '.join(report.unreadable)}",
            "limits may be missing here, and shared memory needs /proc/self: mount /proc in this container",
        )
    ]


def _transport(report: Report, name: str, reason: str | None) -> Row:
    if reason and name == "rdma" and not report.rdma.ports:
        return Row("transport rdma", reason)  # most machines have no device, which is no fault
    return Row(f"transport {name}", "cannot be used" if reason else "can be used", reason or "")


def _port(port: int, address: str, reason: str | None) -> str:
    if reason:
        return f"port {port} cannot be used"
    needs = "" if ipaddress.ip_address(address).is_loopback else "; servers there need a token"
    return f"port {port} is free{needs}"


def _speed(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:.1f} GB/s"
