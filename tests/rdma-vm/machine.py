"""A machine with RDMA for tests: Debian's kernel in QEMU, software emulated, with Soft-RoCE in it. It holds the programs that
it is given, runs one of them, and hands back how that ended. No root, no disk, no network: a kernel and an image in memory."""

import argparse
import lzma
import os
import pathlib
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
LIBRARIES = "usr/lib/x86_64-linux-gnu"
# What the guest's kernel needs beyond itself, each after what it depends on (modules.dep says that).
MODULES = ("crc32_generic", "crc32c_generic", "veth", "rdma_rxe", "rdma_ucm")
# Debian packages of scripts/packages.txt have these.
TOOLS = {"busybox": "busybox-static", "ip": "iproute2", "rdma": "iproute2"}
# Opened by name while programs run, so that ldd does not show them: the verbs of Soft-RoCE, and what ends a thread.
DRIVER = f"/{LIBRARIES}/libibverbs/librxe-rdmav34.so"
LOADED = (DRIVER, f"/{LIBRARIES}/libgcc_s.so.1")
XZ_MAGIC = b"\xfd7zXZ\x00"


class Trouble(Exception):
    """What keeps the machine from being made or run, for a person to read."""


def call(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.returncode != 0:
        raise Trouble(f"{' '.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout


# --- the kernel ---


def kernel_package():
    for line in call("apt-cache", "depends", "linux-image-amd64").splitlines():
        found = re.search(r"Depends: (linux-image-[0-9]\S*)$", line)
        if found:
            return found[1]
    raise Trouble("apt knows no package linux-image-amd64: run apt-get update, or add Debian's main section to apt's sources")


def download(package, folder):
    """apt's own client, as whoever we are; twice, since the lists of a machine that is seldom updated name files that are gone."""
    command = ("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package)
    try:
        call(*command, cwd=folder)
    except Trouble:
        if os.geteuid() != 0:
            raise
        call("apt-get", "-q", "update")
        call(*command, cwd=folder)
    return next(folder.glob(f"{package}_*.deb"))


def unpacked(image):
    """The ELF kernel in a bzImage. Unpacking it here takes a second; the emulated machine would need several each time."""
    data = image.read_bytes()
    at = data.find(XZ_MAGIC)
    while at >= 0:
        try:
            kernel = lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(data[at:])
            if kernel.startswith(b"\x7fELF"):
                return kernel
        except lzma.LZMAError:
            pass
        at = data.find(XZ_MAGIC, at + 1)
    return data  # packed in another way: the boot loader's part unpacks it


def fetch(build):
    """Kernel and modules in BUILD/rdma-vm/PACKAGE, fetched once. Returns (kernel, modules in the order to load them)."""
    package = kernel_package()
    folder = build / "rdma-vm" / package
    release = package.removeprefix("linux-image-")
    if not (folder / "vmlinux").exists():
        fresh = build / "rdma-vm" / f"fresh-{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        deb = download(package, fresh)
        call("dpkg-deb", "-x", deb, fresh)
        deb.unlink()
        modules = fresh / "lib/modules" / release
        call("busybox", "depmod", "-b", fresh, release)
        for name in ordered(modules):
            (fresh / "modules" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(modules / name, fresh / "modules" / name)
        shutil.copy(modules / "modules.dep", fresh / "modules")
        (fresh / "vmlinux").write_bytes(unpacked(fresh / "boot" / f"vmlinuz-{release}"))
        for rest in ("boot", "lib", "usr"):  # 400 MB that nobody needs again
            shutil.rmtree(fresh / rest, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    modules = folder / "modules"
    return folder / "vmlinux", [modules / name for name in ordered(modules)]


def ordered(modules):
    """Paths below `modules` of all that MODULES need, dependencies first."""
    needs, by_name, found = {}, {}, []
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        by_name[pathlib.Path(path).name.split(".")[0]] = path

    def add(path):
        for need in needs[path]:
            add(need)
        if path not in found:
            found.append(path)

    for name in MODULES:
        if name not in by_name:
            raise Trouble(f"this kernel has no module {name}")
        add(by_name[name])
    return found


# --- what is in the machine ---


class Image:
    """A cpio archive (newc) that the kernel unpacks into its memory."""

    def __init__(self):
        self.entries = {}

    def folder(self, path):
        if path and path != "." and path not in self.entries:
            self.folder(str(pathlib.PurePath(path).parent))
            self.entries[path] = (0o040755, b"", (0, 0))

    def add(self, path, data, mode=0o100644, device=(0, 0)):
        self.folder(str(pathlib.PurePath(path).parent))
        self.entries[path] = (mode, data, device)

    def link(self, path, target):
        self.add(path, target.encode(), 0o120777)

    def program(self, path, source, strip=True):
        source = pathlib.Path(source).resolve()
        if not source.exists():
            raise Trouble(f"{source} is missing: build it first")
        data = source.read_bytes()
        if strip and data.startswith(b"\x7fELF"):
            with tempfile.NamedTemporaryFile() as stripped:
                call("strip", "-o", stripped.name, source)
                data = pathlib.Path(stripped.name).read_bytes()
        self.add(path, data, 0o100755)

    def write(self, path):
        with open(path, "wb") as out:
            for number, (name, (mode, data, device)) in enumerate([*self.entries.items(), ("TRAILER!!!", (0, b"", (0, 0)))]):
                named = name.encode() + b"\0"
                fields = (number + 1, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(named), 0)
                out.write(b"070701" + b"".join(b"%08x" % field for field in fields) + named)
                out.write(b"\0" * (-(110 + len(named)) % 4) + data + b"\0" * (-len(data) % 4))


def libraries_of(programs):
    found = {}
    for program in programs:
        for line in subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout.splitlines():
            named = re.match(r"\s*(?:(\S+) => )?(/\S+) \(", line)
            if named:
                found[pathlib.Path(named[2]).name] = pathlib.Path(named[2]).resolve()
            elif "not found" in line:
                raise Trouble(f"{program}: {line.strip()}")
    return found


def make_image(path, modules, main, programs, files):
    """`main`: the script that the machine runs. `programs`: {name in the guest's /t: file here}; `files` the same, unchanged."""
    image = Image()
    for folder in ("proc", "sys", "dev", "tmp", "run", "root", "var/tmp"):
        image.folder(folder)
    for name in ("bin", "sbin", "lib"):
        image.link(name, f"usr/{name}")
    image.link("lib64", "usr/lib")
    image.add("dev/console", b"", 0o020600, (5, 1))
    image.add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    image.add("etc/hosts", b"127.0.0.1 localhost\n")
    image.add("etc/libibverbs.d/rxe.driver", b"driver rxe\n")
    tools = {}
    for tool, package in TOOLS.items():
        tools[tool] = shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if not tools[tool]:
            raise Trouble(f"there is no {tool} here: install Debian's package {package}")
        image.program(f"usr/bin/{tool}" if tool == "busybox" else f"usr/sbin/{tool}", tools[tool])
    if not pathlib.Path(DRIVER).exists():
        raise Trouble(f"there is no {DRIVER} here: install Debian's package ibverbs-providers")
    everything = [*tools.values(), *LOADED, *programs.values()]
    image.program(DRIVER.lstrip("/"), DRIVER)
    for name, source in {**libraries_of(everything), **{pathlib.Path(LOADED[1]).name: LOADED[1]}}.items():
        # The loader is asked for by its full name, all else is looked for in the usual folder.
        image.program(f"usr/lib/{name}" if name.startswith("ld-") else f"{LIBRARIES}/{name}", source)
    for module in modules:
        image.program(f"modules/{module.name}", module, strip=False)
    image.add("modules/order", "".join(f"{module.name}\n" for module in modules).encode())
    image.program("init", HERE / "init")
    image.program("t/main", main)
    for name, source in programs.items():
        image.program(f"t/{name}", source)
    for name, source in files.items():
        image.program(f"t/{name}", source, strip=False)
    image.write(path)


# --- running it ---


def boot(kernel, image, seconds, memory_mb, output=sys.stdout):
    """Runs the machine. Returns the exit status of its /t/main. Trouble: it died, or it took too long."""
    word = secrets.token_hex(8)  # so that no program's output can be taken for the machine's last word
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "pc",
               "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(memory_mb), "-kernel", kernel, "-initrd", image,
               "-serial", "stdio", "-append",
               f"console=ttyS0 quiet panic=-1 mitigations=off audit=0 no_timer_check random.trust_cpu=on sluice.word={word}"]
    try:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError as missing:
        raise Trouble("there is no qemu-system-x86_64 here: install Debian's package qemu-system-x86") from missing
    late = threading.Event()

    def stop():
        late.set()
        machine.kill()

    timer = threading.Timer(seconds, stop)
    timer.start()
    status = None
    try:
        for raw in machine.stdout:
            line = raw.decode(errors="replace").replace("\r", "")
            last = re.match(rf"{word} status (\d+)$", line.rstrip())
            if last:
                status = int(last[1])
            elif "reboot: Power down" not in line:
                output.write(line)
                output.flush()
    finally:
        timer.cancel()
        machine.kill()
        machine.wait()
    if status is None and late.is_set():
        raise Trouble(f"the machine did not end within {seconds} s")
    if status is None:
        raise Trouble("the machine died before its program ended")
    return status


def run(build, main, programs=None, files=None, seconds=120, memory_mb=1024, output=sys.stdout):
    kernel, modules = fetch(build)
    image = build / "rdma-vm" / f"image-{os.getpid()}"
    try:
        make_image(image, modules, main, programs or {}, files or {})
        return boot(kernel, image, seconds, memory_mb, output)
    finally:
        image.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description="Runs a script in a machine with two RDMA devices; the programs are beside it.")
    parser.add_argument("--build", type=pathlib.Path, default=HERE.parents[1] / "build")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--memory", type=int, default=1024, help="MiB")
    parser.add_argument("script")
    parser.add_argument("programs", nargs="*")
    chosen = parser.parse_args()
    begin = time.monotonic()
    try:
        status = run(chosen.build.resolve(), chosen.script, {pathlib.Path(p).name: p for p in chosen.programs},
                     seconds=chosen.seconds, memory_mb=chosen.memory)
    except Trouble as trouble:
        print(f"rdma-vm: {trouble}", file=sys.stderr)
        sys.exit(125)
    print(f"rdma-vm: status {status} after {time.monotonic() - begin:.1f} s", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
