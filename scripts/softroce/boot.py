#!/usr/bin/env python3
"""Run a command in a small virtual machine that has RDMA devices, on a machine that has none.

    python scripts/softroce/boot.py bash tests/rdma/guest.sh

The machine is emulated in software (no KVM, no root). Its kernel is Debian's, with the Soft-RoCE driver; its files are
this machine's, read-only, under an overlay in memory, so the command is found and runs as here. Two pairs of devices
are there, rxa with rxb and rxc with rxd, and two network namespaces that stand for two hosts, A (10.1.0.1) and
B (10.1.0.2). It shows that what uses RDMA is right, never how fast it is. The command finds SOFTROCE=1 set.

Ends with the command's status, or 77 where the machine cannot be had; the reason is printed. QEMU, the kernel, UCX and
the rest come out of Debian's packages on first use, into modum/softroce in $XDG_CACHE_HOME or ~/.cache (180 MB).
"""

import lzma
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
CANNOT: Final = 77
LIMIT: Final = float(os.environ.get("SOFTROCE_LIMIT", "400"))  # seconds until the machine is switched off
MEMORY: Final = "3072"  # MiB

GUEST: Final = [
    "busybox-static",
    "iproute2",
    "libmnl0",
    "libbpf1",
    "libelf1",
    "libnl-3-200",
    "libnl-route-3-200",
    "libnuma1",
    "libucx0",
    "ibverbs-providers",
    "libibverbs1",
    "librdmacm1",
]
QEMU: Final = [
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-system-data",
    "seabios",
    "libaio1",
    "libbpf1",
    "libcapstone4",
    "libdaxctl1",
    "libelf1",
    "libexecs0",
    "libfdt1",
    "libfuse3-3",
    "libibverbs1",
    "libndctl6",
    "libnl-3-200",
    "libnl-route-3-200",
    "libpmem1",
    "librdmacm1",
    "libslirp0",
    "liburing2",
    "libvdeplug2",
]
KERNEL: Final = "linux-image-amd64"
DRIVERS: Final = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "veth", "crc32_generic", "ib_uverbs", "rdma_rxe")

unpack = runpy.run_path(str(HERE.parents[1] / "src" / "modum" / "data" / "debian.py"))["unpack"]


class CannotError(Exception):
    """The machine cannot be had here."""


def cache() -> Path:
    """Where everything is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modum" / "softroce"


def prepare(home: Path) -> None:
    """Fill `home`, unless that was done before: guest (files laid over the machine's), qemu, vmlinux, initrd."""
    if (home / "initrd").exists():
        return
    print("softroce: unpacking a kernel, QEMU and UCX from Debian's packages, once", flush=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="softroce-") as scratch:
        new = Path(scratch) / "new"
        unpack(GUEST, new / "guest")
        _merge(new / "guest")
        if shutil.which("qemu-system-x86_64") is None:
            unpack(QEMU, new / "qemu")
            _merge(new / "qemu")
        kernel = Path(scratch) / "kernel"
        unpack(_kernel(), kernel)
        (image,) = kernel.glob("boot/vmlinuz-*")
        (new / "vmlinux").write_bytes(_uncompressed(image.read_bytes()))
        root = Path(scratch) / "root"
        _lay_out(root, new / "guest" / "usr" / "bin" / "busybox", kernel / "lib" / "modules")
        _pack(root, new / "initrd")
        new.rename(home)


def _kernel() -> str:
    shown = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True, check=False)
    if found := re.search(r"Depends: (linux-image-\S+)", shown.stdout):
        return found[1]
    raise CannotError(f"apt knows no {KERNEL} (HINT: apt-get update)")


def _merge(root: Path) -> None:
    """Lay out /bin, /sbin and /lib as they are in Debian: in /usr."""
    for name in ("bin", "sbin", "lib"):
        if (root / name).is_dir():
            shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(root / name)


def _uncompressed(image: bytes) -> bytes:
    """The kernel in a bzImage, which saves the guest from unpacking it (Documentation/arch/x86/boot.rst)."""
    start = ((image[0x1F1] or 4) + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    payload = image[start : start + int.from_bytes(image[0x24C:0x250], "little")]
    if payload.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(payload)
    raise CannotError(f"the kernel is compressed in a way that is not known here ({payload[:4]!r})")


def _lay_out(root: Path, busybox: Path, modules: Path) -> None:
    """The first file system of the guest: busybox, the drivers in the order of their needs, and `init`."""
    for name in ("bin", "sbin", "proc", "sys", "dev", "host", "over", "rw", "new", "drivers"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    (root / "bin" / "sh").symlink_to("busybox")
    shutil.copy(HERE / "init", root / "init")
    (root / "init").chmod(0o755)
    files = {path.name.partition(".ko")[0].replace("-", "_"): path for path in modules.glob("**/*.ko*")}
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name not in files:  # some are built into the kernel
            return
        path = files[name]
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        found = re.search(rb"\0depends=([^\0]*)\0", content)
        for need in (found[1].decode() if found else "").split(","):
            add(need)
        order.append(name)
        (root / "drivers" / name).write_bytes(content)

    for name in DRIVERS:
        add(name)
    (root / "drivers" / "order").write_text("\n".join(order))


def _pack(root: Path, archive: Path) -> None:
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with archive.open("wb") as out:
        command = [str(root / "bin" / "busybox"), "cpio", "-o", "-H", "newc"]
        subprocess.run(command, cwd=root, input=names.encode(), stdout=out, stderr=subprocess.DEVNULL, check=True)


def boot(home: Path, command: list[str]) -> int:
    """Run `command` in the machine, pass on what it prints, and return its status."""
    environment = dict(os.environ)
    emulator, firmware = shutil.which("qemu-system-x86_64"), []
    if emulator is None:
        usr = home / "qemu" / "usr"
        libraries = usr / "lib" / "x86_64-linux-gnu"
        environment |= {"LD_LIBRARY_PATH": str(libraries), "QEMU_MODULE_DIR": str(libraries / "qemu")}
        emulator = str(usr / "bin" / "qemu-system-x86_64")
        firmware = ["-L", str(usr / "share" / "qemu"), "-L", str(usr / "share" / "seabios")]
    works = subprocess.run([emulator, "--version"], env=environment, capture_output=True, text=True, check=False)
    if works.returncode:
        raise CannotError(f"QEMU does not start: {works.stderr.strip()} (HINT: apt-get install qemu-system-x86)")
    with tempfile.TemporaryDirectory(prefix="softroce-") as scratch:
        script = Path(scratch) / "command"
        script.write_text(
            f"""export SOFTROCE=1
cd {shlex.quote(str(Path.cwd()))}
bash {shlex.quote(str(HERE / "devices.sh"))} || exit {CANNOT}
{shlex.join(command)}
"""
        )
        folder = "local,security_model=none,readonly=on,multidevs=remap"
        # a time stamp counter would be calibrated wrongly on a busy machine, and with it every clock of the guest
        line = f"console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off audit=0 clocksource=hpet command={script}"
        options = f"""
            -M q35 -accel tcg,thread=multi -cpu Nehalem -smp 2 -m {MEMORY} -nodefaults -no-user-config -display none
            -no-reboot -nic none -chardev stdio,id=console,signal=off -serial chardev:console
            -kernel {home}/vmlinux -initrd {home}/initrd
            -virtfs {folder},path=/,mount_tag=host -virtfs {folder},path={home}/guest,mount_tag=over
        """.split()
        machine = subprocess.Popen(
            [emulator, *firmware, *options, "-append", line],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            return _watch(machine)
        finally:
            machine.kill()
            machine.wait()


def _watch(machine: "subprocess.Popen[bytes]") -> int:
    assert machine.stdout is not None
    switch = threading.Timer(LIMIT, machine.kill)
    switch.start()
    status = None
    try:
        for raw in machine.stdout:
            text = raw.decode(errors="replace").rstrip("\r\n")
            if found := re.fullmatch(r"softroce: status (\d+)", text):
                status = int(found[1])
            elif status is None:
                print(text, flush=True)
    finally:
        switch.cancel()
    if status is None:
        print(f"softroce: the machine ended, or was switched off after {LIMIT:g} s, before the command did")
        return 1
    return status


def main(command: list[str]) -> int:
    """Run the command."""
    if not command:
        sys.exit("usage: boot.py COMMAND [ARGUMENT...]")
    try:
        if sys.platform != "linux" or os.uname().machine != "x86_64":
            raise CannotError("it needs Linux on x86-64")
        prepare(cache())
        return boot(cache(), command)
    except (CannotError, OSError) as error:
        print(f"softroce: cannot be had here: {error}", flush=True)
        return CANNOT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
