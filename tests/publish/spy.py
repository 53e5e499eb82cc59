"""A package that looks for credentials wherever a process can look, when it is imported: what it saw goes to its output.

Each is a text with MARK in it. It needs no network for that: the publisher's log has its output.
"""

MARK = "of-the-maintainer-0815"

SOURCE = r'''
import ctypes, glob, importlib, os, pathlib, socket, sys

MARK = "@MARK@"
OWN = os.getpid()
seen = []


def look(place, content):
    """Report a place whose content has the mark."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    for piece in content.split(b"\0"):
        if MARK.encode() in piece and b"def look" not in piece:
            seen.append(f"{place}: {piece[:120]!r}")


def read(path, size=1_000_000):
    try:
        with open(path, "rb") as stream:
            return stream.read(size)
    except OSError:
        return b""


for name, value in os.environ.items():
    look(f"environment {name}", value)

for process in glob.glob("/proc/[0-9]*"):
    for name in ("environ", "cmdline", "task/*/environ"):
        for path in glob.glob(f"{process}/{name}"):
            look(path, read(path))
    for descriptor in glob.glob(f"{process}/fd/*"):
        try:
            look(descriptor, os.readlink(descriptor))
            if os.path.isfile(descriptor) and process != f"/proc/{OWN}":
                look(descriptor, read(descriptor))
        except OSError:
            pass
    for root in ("root/root", "root/home", "cwd"):
        for name in (".pypirc", ".netrc"):
            look(f"{process}/{root}/{name}", read(f"{process}/{root}/{name}"))

# The memory of the parents.
parent = os.getppid()
while parent > 1:
    for line in read(f"/proc/{parent}/maps").decode().splitlines():
        if "rw" in line and ("[heap]" in line or "[stack]" in line or " 0 " in line):
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            try:
                with open(f"/proc/{parent}/mem", "rb", 0) as memory:
                    memory.seek(start)
                    look(f"memory of {parent}", memory.read(min(end - start, 30_000_000)))
            except (OSError, ValueError, OverflowError):
                pass
    status = read(f"/proc/{parent}/stat").decode().rpartition(")")[2].split()
    parent = int(status[1]) if status else 0

# Files: the home folders, what an environment names, and what lies beside the installed package.
places = {"/root", "/home", "/run", "/var", "/etc", "/tmp", "/srv", "/opt", os.path.expanduser("~"), "@PLACES@"}
for place in places:
    for folder, _, files in os.walk(place):
        if folder.startswith(("/var/lib/docker", "/var/cache", "/proc", "/sys")) or folder.count("/") > 9:
            continue
        for name in files:
            path = os.path.join(folder, name)
            if name in (".pypirc", ".netrc", "seal-key", "github_env", "cr.cfg", "pyproject.toml", "lock"):
                look(path, read(path))

# Keyrings: modules of the system's and of the publisher's, and the kernel's keys.
for name in ("keyring", "secretstorage", "jeepney"):
    try:
        module = importlib.import_module(name)
        look(name, str(module.get_password("https://index.example/legacy/", "__token__")))
    except Exception:
        pass
libc = ctypes.CDLL(None, use_errno=True)
for line in read("/proc/keys").decode().splitlines():
    look("kernel key", line)
    content = ctypes.create_string_buffer(4096)
    length = libc.syscall(250, 11, int(line.split()[0], 16), content, 4096, 0)
    look("kernel key", content.raw[: max(length, 0)])

# Shared memory (shm_overview(7) is files; this is System V's).
libc.shmat.restype = ctypes.c_void_p
for line in read("/proc/sysvipc/shm").decode().splitlines()[1:]:
    address = libc.shmat(int(line.split()[1]), None, 0o10000)  # SHM_RDONLY
    if address != ctypes.c_void_p(-1).value:
        look("shared memory", ctypes.string_at(address, 200))

# Sockets: by path, abstract, and on loopback.
for line in read("/proc/net/unix").decode("utf-8", "replace").splitlines():
    look("unix socket", line)
for number in @PORTS@:
    try:
        with socket.create_connection(("127.0.0.1", number), 2) as connection:
            look("loopback", connection.recv(200))
    except OSError:
        pass

# What it leaves for others: nothing may be written where a later command would look.
for path in (__file__, sys.executable, "/usr/spied", os.path.join(sys.prefix, "spied"), "/proc/sys/kernel/core_pattern"):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        seen.append(f"may write {path}")
    except OSError:
        pass
for folder in (os.path.dirname(__file__), sys.prefix, "/usr", "/", "/etc", "/var"):
    try:
        os.mkdir(os.path.join(folder, "spied"))
        seen.append(f"may write into {folder}")
    except OSError:
        pass

print("looked as", os.getuid(), "pid", OWN)
for entry in seen:
    print("SEEN", entry)
'''


def source(places: str, ports: list[int]) -> str:
    """The package's `__init__.py`: it also looks in the folder `places` and on these ports."""
    return SOURCE.replace("@MARK@", MARK).replace("@PLACES@", places).replace("@PORTS@", repr(ports))
