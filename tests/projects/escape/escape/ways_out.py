"""Ways out of a build or a smoke test, each tried for real on folders that the test made (targets.json).

What a way writes has MARK in it, which this file has not. A device is opened and never written to.
"""

import ctypes
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

MARK = "-".join(["ways", "out", "was", "here"])
TARGETS = json.loads((Path(__file__).parent / "targets.json").read_text())
STORE, HOME, WORK = Path(TARGETS["store"]), Path(TARGETS["home"]), Path(TARGETS["work"])
LIBC = ctypes.CDLL(None, use_errno=True)
WAYS = []


def way(function):
    WAYS.append(function)
    return function


def append(pattern):
    """Append the mark to all files of a pattern; raises where there are none or none can be written."""
    paths = [Path(path) for path in glob.glob(str(pattern), recursive=True) if os.path.isfile(path)]
    written = 0
    for path in paths:
        try:
            before = path.stat()
            with path.open("a") as file:
                file.write(f"\nprint('{MARK}')  # {MARK}\n")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            written += 1
        except OSError as error:
            problem = error
    if not written:
        raise problem if paths else OSError(f"no {pattern}")


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"print('{MARK}')\n")


def own_package(name):
    """A file of the environment that this runs in, which uv linked from its cache."""
    for folder in sys.path:
        for path in Path(folder).glob(f"{name}/__init__.py"):
            return path
    raise OSError(f"no {name}")


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@way
def edit_cached_packages():
    append(STORE / "uv/archive-v*/*/*/__init__.py")


@way
def edit_the_index_of_cached_wheels():
    links = glob.glob(str(STORE / "uv/wheels-v*/**/*"), recursive=True)
    link = next(Path(path) for path in links if os.path.islink(path))
    link.unlink()
    link.symlink_to("/tmp")


@way
def plant_in_the_cache():
    write(STORE / "uv" / "planted.py")


@way
def edit_an_installed_file_in_place():
    append(own_package("torch"))


@way
def change_the_mode_of_an_installed_file():
    own_package("torch").chmod(0o4777)


@way
def edit_through_a_hard_link():
    target = own_package("torch")
    link = target.with_name("linked.py")
    os.link(target, link)
    append(link)


@way
def edit_by_truncating():
    os.truncate(own_package("torch").with_name("notes.py"), 1)


@way
def set_attributes_of_an_installed_file():
    path = own_package("torch")
    os.utime(path, (1, 1))
    os.setxattr(path, "user.planted", MARK.encode())


@way
def leave_bytecode_of_torch():
    write(own_package("torch").parent / "__pycache__" / "planted.cpython-311.pyc")


@way
def plant_in_compiled_modules():
    write(STORE / "compiled" / "cp311" / "planted.pyc")
    append(STORE / "compiled/**/*")


@way
def edit_sources():
    append(STORE / "sources/**/*.py")


@way
def configure_git_of_a_source():
    append(STORE / "sources/*/.git/config")


@way
def edit_torchs_sdk():
    append(STORE / "sdk/**/*")


@way
def edit_another_jobs_environment():
    append(STORE / "envs/*/another/**/*")
    write(STORE / "envs" / "another" / "planted.py")


@way
def edit_another_projects_ccache():
    append(STORE / "ccache/**/*")


@way
def remove_locks():
    (STORE / "in-use").unlink()
    for path in (STORE / "locks").iterdir():
        path.unlink()


@way
def plant_in_the_store():
    write(STORE / "planted.py")


@way
def edit_what_is_known_of_images():
    append(STORE / "images/*")


@way
def configure_git_of_the_user():
    append(HOME / ".gitconfig")


@way
def plant_in_the_home_folder():
    write(HOME / ".config" / "uv" / "uv.toml")
    append(HOME / "sentinel")


@way
def take_the_key_of_seals():
    append(HOME / ".local/state/torch-build-farm/*")
    write(HOME / ".local/state/torch-build-farm/key")


@way
def forge_records():
    for name in ("build", "repair", "smoke", "audit"):
        write(WORK / "jobs" / TARGETS["job"] / f"{name}.json")


@way
def name_files_to_be_deleted():
    write(WORK / "delivered")


@way
def exchange_the_delivered_wheel():
    write(WORK / "dist" / "planted.whl")


@way
def call_the_docker_engine():
    with socket.socket(socket.AF_UNIX) as client:
        for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"):
            if os.path.exists(path):
                client.connect(path)
                return
        raise OSError("no socket")


@way
def make_a_device():
    for folder in ("/tmp", TARGETS["build"], *writable_mounts()):
        os.mknod(f"{folder}/disk", 0o600 | 0o060000, os.makedev(8, 0))


@way
def read_memory():
    for device in ("/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg"):
        if os.path.exists(device):
            with open(device, "rb"):
                return
    raise OSError("no such devices")


@way
def mount_a_file_system():
    check(LIBC.mount(b"none", b"/mnt", b"tmpfs", 0, None))


@way
def mount_writable_again():
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1]
        if str(STORE) in place:
            check(LIBC.mount(b"none", place.encode(), None, 32 | 4096, None))  # MS_REMOUNT | MS_BIND
            return
    raise OSError("nothing of the store is mounted")


@way
def leave_the_name_spaces():
    check(LIBC.unshare(0x10000000 | 0x00020000))  # CLONE_NEWUSER | CLONE_NEWNS
    check(LIBC.mount(b"none", b"/", None, 16384 | 262144, None))


@way
def enter_the_hosts_name_spaces():
    with open("/proc/1/ns/mnt", "rb") as namespace:
        check(LIBC.setns(namespace.fileno(), 0))
    if os.path.exists(WORK):
        return
    raise OSError("the same as before")


@way
def leave_a_program_that_becomes_root():
    for folder in writable_mounts():
        path = f"{folder}/become-root"
        shutil.copy("/bin/sh", path)
        os.chmod(path, 0o6755)


@way
def escape_by_a_control_group():
    for path in glob.glob("/sys/fs/cgroup/**/release_agent", recursive=True):
        Path(path).write_text("/tmp/planted")
        return
    check(LIBC.mount(b"cgroup", b"/mnt", b"cgroup", 0, b"rdma"))


@way
def name_a_handler_of_crashes():
    Path("/proc/sys/kernel/core_pattern").write_text(f"|/tmp/{MARK}")


@way
def set_the_kernels_helpers():
    Path("/sys/kernel/uevent_helper").write_text(f"/tmp/{MARK}")


@way
def load_a_module():
    check(LIBC.syscall(313, -1, b"", 0))  # finit_module


@way
def trace_the_farm():
    check(LIBC.ptrace(0x4206, TARGETS["pid"], None, None))  # PTRACE_SEIZE


@way
def signal_the_farm():
    os.kill(TARGETS["pid"], signal.SIGCONT)


@way
def reach_the_network():
    urllib.request.urlopen(TARGETS["url"], timeout=2).read()


@way
def reach_a_socket_without_a_file():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(TARGETS["socket"])
        client.send(MARK.encode())


@way
def read_the_hosts_root():
    for folder in ("/host", "/proc/1/root"):
        if os.path.exists(f"{folder}{WORK}"):
            return
    raise OSError("not there")


@way
def add_tokens_to_the_jobserver():
    _, _, fifo = os.environ["MAKEFLAGS"].partition("fifo:")
    descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    while True:  # until it is full
        os.write(descriptor, b"+" * 4096)


@way
def write_to_the_terminal():
    sys.stdout.write(f"\x1b]0;{MARK}\x07\x1b[2J::set-output name=x::y\n::warning::{MARK}\n")
    sys.stdout.flush()


@way
def exchange_what_is_copied():
    """A process that stays, and exchanges a folder for a link while wheels are copied to the host."""
    code = f"""
import os, time
until = time.time() + 20
while time.time() < until:
    try:
        os.makedirs("/output/exchanged", exist_ok=True)
        open("/output/exchanged/.gitconfig", "w").write({MARK!r})
        os.rename("/output/exchanged", "/output/moved")
        os.symlink({str(HOME)!r}, "/output/exchanged")
        time.sleep(0.001)
        os.unlink("/output/exchanged")
        os.rename("/output/moved", "/output/exchanged")
    except OSError:
        pass
"""
    subprocess.Popen(
        [sys.executable, "-c", code],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def writable_mounts():
    """Folders of mounts in which something can be written, besides the container's own."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith((str(STORE), "/tmp/")) and os.path.isdir(place) and os.access(place, os.W_OK):
            found.append(place)
    return found


def leave_links():
    """Plant links for the host, where it reads after the build; last, so that the build itself still ends well."""
    os.makedirs("/output", exist_ok=True)
    plants = {
        "/output/peak": HOME / "sentinel",
        "/output/asked": HOME / "sentinel",
        "/output/.ninja_log": HOME / "sentinel",
        "/output/planted-1.0-cp311-cp311-linux_x86_64.whl": HOME / "sentinel",
        f"{TARGETS['build']}/home": HOME,
    }
    for folder in writable_mounts():
        plants[f"{folder}/linked-home"] = HOME
    # In these places the farm refuses what is no file, and the build with it.
    if TARGETS["where_files_are_read"]:
        plants[f"{TARGETS['build']}/.ninja_log"] = HOME / "sentinel"
        plants |= {f"{folder}/asked": HOME / "sentinel" for folder in writable_mounts()}
    for link, target in plants.items():
        try:
            os.path.lexists(link) and os.unlink(link)
            os.symlink(target, link)
        except OSError:
            pass


def main(where):
    for function in WAYS:
        try:
            function()
            result = "open"
        except BaseException as error:
            result = f"closed: {type(error).__name__}: {error}"
        print(f"way out, {where}: {function.__name__}: {result}", flush=True)
