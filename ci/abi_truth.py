#!/usr/bin/env python3
"""What `audit` is measured against: wheels really loaded, imported and made to compute beside real torch releases.

    ci/abi_truth.py PACKAGES.toml --wheels FOLDER --results FILE --work FOLDER --torch 2.8.0 2.15.0

For every wheel and release a fresh environment: torch with all it requires, the wheel without its dependencies, and the
requirements its entry names. There each shared library is dlopened with RTLD_NOW in a process that has torch, a second
process does the real imports and the computation, and all that was seen goes to the results (JSON, keyed by "wheel
torch"), which a later run goes on with. Environments are hard links where uv's cache is on the same file system.

With --arm64-root the same happens to arm64 wheels on a machine of another kind, under QEMU: the root is Debian's for
arm64 with Python, such as `debootstrap --arch arm64 --include=python3,libgomp1,binutils` makes, and binfmt_misc has to
know qemu-aarch64-static (Debian's qemu-user-static). Importing torch takes half a minute there, so one process imports
it, and everything else is a fork of that one. It needs root, as chroot does. Wheels for another machine are left out.
"""

from __future__ import annotations

import argparse
import fcntl
import fnmatch
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

ELF = b"\x7fELF"
# A wheel for a later glibc is installed all the same: what becomes of it is for the loader to say.
WIDE = "manylinux_2_40"
TIMEOUT_S = 180
EMULATED_TIMEOUT_S = 900
TAIL = 2000
# Each library in a child of its own, forked after `import torch`: a crash costs only the child, and torch is imported
# once. What it needs of its own package or of another but torch is loaded before it, as the package would do.
DLOPEN = r"""
import ctypes, json, os, sys, tempfile, torch
found = {}
siblings = json.loads(sys.argv[1])
def load(path):
    try:
        ctypes.CDLL(path, mode=os.RTLD_NOW)
    except OSError as error:
        needed = siblings.pop(str(error).partition(": cannot open shared object file")[0], None)
        if needed is None:
            raise
        load(needed)
        load(path)
for path in sys.argv[2:]:
    with tempfile.TemporaryFile() as log:
        child = os.fork()
        if not child:
            os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
            try:
                load(path)
            except OSError as error:
                os.write(2, b"\nDLERROR " + str(error).encode())
                os._exit(3)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        log.seek(0)
        found[path] = [code, log.read().decode(errors="replace")[-3000:]]
print("\n" + json.dumps([torch.__version__, found]))
"""
# The process in an arm64 root that has torch: runs each code that it is told to in a fork, and says how that ended. A
# fork ends as any process does, so that what its libraries do at the end is seen too.
SERVER = r"""
import json, os, sys, time, numpy, torch
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        for number, path in enumerate([os.devnull, asked["output"], asked["error"]]):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        os.chdir(asked["folder"])
        sys.path.insert(0, asked["site"])
        sys.argv = asked["arguments"]
        exec(compile(asked["code"], asked["arguments"][0], "exec"), {"__name__": "__main__"})
        sys.exit()
    latest = time.monotonic() + asked["seconds"]
    done, status = os.waitpid(child, os.WNOHANG)
    while not done and time.monotonic() < latest:
        time.sleep(0.1)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, 9)
        os.waitpid(child, 0)
    print(json.dumps(os.waitstatus_to_exitcode(status) if done else "timeout"), flush=True)
"""
# $1: the root, $2: a folder of the host's that has the same path there. In a mount name space of its own.
IN_ROOT = """
set -e
mkdir -p "$1$2"
mount --bind "$2" "$1$2"
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
ulimit -c 0
root=$1
shift 2
exec nice -n 19 chroot "$root" "$@"
"""
# How far a process came is told by these lines; which of the wheel's libraries it had loaded, by its maps.
COMPUTE = r"""
import faulthandler, sys
faulthandler.enable()
import torch
def stage(name):
    with open("/proc/self/maps") as lines:
        mapped = sorted({{line.split()[-1] for line in lines if ".so" in line}})
    print("\n#stage", name, *mapped, file=sys.stderr, flush=True)
def module(pattern):
    import glob, importlib.util, os
    path, = glob.glob(os.path.join(SITE, pattern))
    name = os.path.basename(path).partition(".")[0]
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
SITE, LIBRARY = {site!r}, {library!r}
stage("torch")
{imports}
stage("import")
{compute}
stage("compute")
"""


def toml(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return tomllib.load(file)


def libraries(wheel: Path) -> list[str]:
    """The wheel's shared libraries, as they lie in site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        found = []
        for name in archive.namelist():
            if ".so" not in Path(name).name:
                continue
            with archive.open(name) as file:
                if file.read(4) == ELF:
                    found.append(re.sub(r"^[^/]+\.data/(platlib|purelib)/", "", name))
    return sorted(found)


class Environment:
    """One virtual environment; always at the same path for one torch release, so that torch's bytecode is reused."""

    def __init__(self, work: Path, python: str, release: str, library_path: Path | None) -> None:
        self.folder = work / f"torch-{release}"
        self.python = self.folder / "bin" / "python"
        self.asked = python
        self.release = release
        self.variables = {name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_", "HTTP"))}
        self.variables |= {
            "PATH": os.environ["PATH"],
            "HOME": str(work),
            "PYTHONPYCACHEPREFIX": str(work / "bytecode"),
            "OMP_NUM_THREADS": "2",
        }
        if library_path:
            self.variables["LD_LIBRARY_PATH"] = str(library_path)

    def uv(self, *arguments: str) -> None:
        done = subprocess.run(["uv", *arguments], env=self.variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-TAIL:])

    def serves(self, wheel: str) -> bool:
        """Whether a wheel, by its file name, is for this machine."""
        return wheel.endswith((f"_{platform.machine()}.whl", "-any.whl"))

    def make(self, wheel: Path, requires: list[str], beside: list[str]) -> None:
        """Torch is pinned while the requirements are resolved, so none of them can change it."""
        self.uv("venv", "--quiet", "--clear", "--python", self.asked, str(self.folder))
        python = str(self.python)
        self.uv("pip", "install", "--quiet", "--python", python, f"torch=={self.release}", "numpy", *requires)
        wide = f"{platform.machine()}-{WIDE}"
        self.uv(
            "pip", "install", "--quiet", "--python", python, "--no-deps", "--python-platform", wide, str(wheel), *beside
        )

    def computation(self, snippet: str) -> str:
        """A snippet as it is run here."""
        return snippet

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *arguments: str, **variables: str) -> tuple[int | str, str, str]:
        """Exit code (or the signal's name, or 'timeout'), standard output and error."""
        try:
            done = subprocess.run(
                arguments,
                cwd=self.folder,
                env=self.variables | variables,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return "timeout", str(error.stdout or ""), str(error.stderr or "")
        return ended(done.returncode), done.stdout, done.stderr

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python3*/site-packages"))

    def undefined(self, library: Path) -> list[str]:
        """All the names that the loader misses, not only the first: what `ldd -r` says with torch's libraries in reach.
        The interpreter's own names are not meant.
        """
        places = [self.packages / "torch" / "lib", *self.packages.glob("nvidia/*/lib")]
        places += [folder for folder in self.packages.iterdir() if folder.name.endswith(".libs")]
        output = self.run("ldd", "-r", str(library), LD_LIBRARY_PATH=":".join(map(str, places)))[1]
        names = re.findall(rf"undefined symbol: (\S+)\s+\({re.escape(str(library))}\)", output)
        return sorted({name for name in names if not re.match(r"_?Py", name)})


class EmulatedEnvironment(Environment):
    """One in a root for arm64. Torch is installed twice, as hard links: the server's stays, the wheel's changes."""

    def __init__(self, work: Path, python: str, release: str, root: Path) -> None:
        super().__init__(work, python, release, None)
        self.python = Path("/usr/bin/python3")
        self.root, self.work = root.resolve(), work
        self.torch = self.folder / "torch"
        self.server: subprocess.Popen[str] | None = None

    def serves(self, wheel: str) -> bool:
        return wheel.endswith("_aarch64.whl")

    @property
    def packages(self) -> Path:
        return self.folder / "wheel"

    def install(self, target: Path, *requirements: str) -> None:
        options = ["--python-platform", f"aarch64-{WIDE}", "--python-version", self.asked, "--only-binary", ":all:"]
        self.uv("pip", "install", "--quiet", "--target", str(target), *options, *requirements)

    def make(self, wheel: Path, requires: list[str], beside: list[str]) -> None:
        shutil.rmtree(self.packages, ignore_errors=True)
        if not self.torch.is_dir():
            self.install(self.torch, f"torch=={self.release}", "numpy")
        self.install(self.packages, f"torch=={self.release}", "numpy", *requires)
        self.install(self.packages, "--no-deps", str(wheel), *beside)

    def undefined(self, library: Path) -> list[str]:  # noqa: ARG002
        """None: beside the first name, which dlopen tells, the others are not worth half a minute of `ldd -r` each."""
        return []

    def command(self, *arguments: str, **variables: str) -> list[str]:
        """A command line that runs another one in the root."""
        own = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment = [f"{name}={value}" for name, value in (self.variables | own | variables).items()]
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", IN_ROOT, "sh"]
        return [*isolated, str(self.root), str(self.work), "/usr/bin/env", *environment, *arguments]

    def run(self, *arguments: str, **variables: str) -> tuple[int | str, str, str]:  # noqa: ARG002
        if arguments[1] == "-c":
            code, told = arguments[2], ["-c", *arguments[3:]]
        else:
            code, told = Path(arguments[1]).read_text(), list(arguments[1:])
        output, error = self.folder / "output.txt", self.folder / "error.txt"
        for path in (output, error):
            path.write_text("")
        end = self.ask(
            {
                "folder": str(self.folder),
                "site": str(self.packages),
                "code": code,
                "arguments": told,
                "output": str(output),
                "error": str(error),
                "seconds": EMULATED_TIMEOUT_S,
            }
        )
        result = end if isinstance(end, str) else ended(end)
        return result, output.read_text(errors="replace"), error.read_text(errors="replace")

    def ask(self, asked: dict[str, Any]) -> int | str:
        """How a fork of the process with torch ended: its exit code, less than 0 for a signal, or 'timeout'."""
        if self.server is None:
            command = self.command(str(self.python), "-c", SERVER, PYTHONPATH=str(self.torch))
            self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.server.stdin is None or self.server.stdout is None:
            raise RuntimeError("the process with torch has no pipes")
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        line = self.server.stdout.readline()
        if not line:
            raise RuntimeError(f"the process with torch ended: {self.server.wait()}")
        answer: int | str = json.loads(line)
        return answer

    def computation(self, snippet: str) -> str:
        # The long loops are for what goes wrong seldom, such as counts of references: here each pass takes 50 times as
        # long, and one in a hundred has to do.
        return re.sub(r"\brange\((\d+)00\)", r"range(\1)", snippet)

    def close(self) -> None:
        if self.server and self.server.stdin:
            self.server.stdin.close()
            self.server.wait()
        super().close()


def shortened(text: str) -> str:
    """Head and tail: the dispatcher's errors begin with what matters, tracebacks end with it."""
    return text if len(text) <= 2 * TAIL else f"{text[:TAIL]}\n...\n{text[-TAIL:]}"


def ended(code: int) -> int | str:
    return code if code >= 0 else signal.Signals(-code).name


def opened(environment: Environment, files: list[str]) -> tuple[str, dict[str, Any]]:
    """The torch there, and for every library what became of dlopen."""
    root = environment.packages
    others = (path for path in root.rglob("*.so*") if path.relative_to(root).parts[0] not in ("torch", "nvidia"))
    # Of the builds of a library for several torches, the one for this torch is what its package would load.
    minor = environment.release.rpartition(".")[0]
    in_order = sorted(others, key=lambda path: f"torch-{minor}" in path.parts)
    siblings = json.dumps({path.name: str(path) for path in in_order})
    paths = [str(root / file) for file in files]
    code, output, error = environment.run(str(environment.python), "-c", DLOPEN, siblings, *paths)
    if code:
        raise RuntimeError(f"dlopen: {code}: {error[-TAIL:]}")
    found: dict[str, Any] = {}
    version, answers = json.loads(output.splitlines()[-1])
    for path, (status, text) in answers.items():
        name = str(Path(path).relative_to(root))
        said = text.partition("\nDLERROR ")[2] or text.strip()
        if status == 0:
            found[name] = {"result": "ok"}
        elif match := re.search(r"undefined symbol: (\S+)", said):
            missing = environment.undefined(Path(path))
            found[name] = {"result": "undefined", "missing_first": match[1], "missing": missing, "error": said}
        elif match := re.search(r"(\S+): cannot open shared object file", said):
            found[name] = {"result": "library", "library": match[1], "error": said}
        else:
            found[name] = {"result": "error" if status == 3 else str(ended(status)), "error": said}
    return version, found


def used(environment: Environment, imports: list[str], compute: str, library: str = "") -> dict[str, Any]:
    """How far import and computation came, with which end, and which of site-packages' libraries were mapped then."""
    script = environment.folder / "compute.py"
    site = str(environment.packages)
    text = "\n".join(f"import {name}" for name in imports)
    script.write_text(COMPUTE.format(imports=text, compute=compute, site=site, library=library and f"{site}/{library}"))
    started = time.monotonic()
    code, _, error = environment.run(str(environment.python), str(script))
    stages = re.findall(r"^#stage (\w+) ?(.*)$", error, re.MULTILINE)
    prefix = f"{environment.packages}/"
    mapped = {file.removeprefix(prefix) for _, files in stages for file in files.split() if file.startswith(prefix)}
    return {
        "reached": stages[-1][0] if stages else "",
        "end": code,
        "seconds": round(time.monotonic() - started, 1),
        "error": shortened(re.sub(r"^#stage .*\n", "", error, flags=re.MULTILINE).strip()) if code else "",
        "mapped": sorted(file for file in mapped if not file.startswith(("torch/", "nvidia/", "numpy"))),
    }


def verdict(dlopen: dict[str, Any], use: dict[str, Any], has_compute: bool) -> str:
    """A first word for a person to check: what the process did counts, then what the loader said."""
    if use["end"] != 0:
        return f"fails: {use['reached'] or 'start'}: {use['end']}"
    if has_compute:
        return "computes"
    failed = sorted({one["result"] for one in dlopen.values()} - {"ok"})
    return f"imports, dlopen: {', '.join(failed)}" if failed else "loads"


def tried(entry: dict[str, Any], snippets: dict[str, str], environment: Environment, wheel: Path) -> dict[str, Any]:
    """All there is to see of one wheel beside one torch."""
    environment.make(wheel, entry.get("requires", []), entry.get("beside", []))
    compute = environment.computation(snippets.get(entry.get("compute", ""), ""))
    files = libraries(wheel)
    version, dlopen = opened(environment, files)
    use = used(environment, entry.get("imports", []), compute)
    each_compute = environment.computation(snippets.get(entry.get("each_compute", ""), ""))
    each = {
        file: used(environment, entry.get("each_imports", []), each_compute, file)
        for file in fnmatch.filter(files, entry.get("each", ""))
        if dlopen[file]["result"] in ("ok", "library")
    }
    word = verdict(dlopen, use, bool(compute))
    return {"torch_version": version, "verdict": word, "dlopen": dlopen, "use": use, "each": each}


def main() -> int:
    """Go through the pairs that the results do not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("--wheels", type=Path, required=True, help="folder of the wheel files")
    parser.add_argument("--results", type=Path, required=True, help="JSON file to go on with")
    parser.add_argument("--work", type=Path, required=True, help="folder for the environments, on uv's file system")
    parser.add_argument("--torch", nargs="+", required=True, metavar="RELEASE")
    parser.add_argument("--python", default="3.12", help="what uv is asked for")
    parser.add_argument(
        "--library-path", type=Path, help="folder with a later libstdc++.so.6, for wheels that need one"
    )
    parser.add_argument("--arm64-root", type=Path, help="Debian's root for arm64: try arm64 wheels there, under QEMU")
    parser.add_argument("--only", default="*", help="pattern of wheel file names")
    parser.add_argument("--again", action="store_true", help="also the pairs that the results have")
    options = parser.parse_args()
    content = toml(options.packages)
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    for release in options.torch:
        environment = Environment(options.work.resolve(), options.python, release, options.library_path)
        if options.arm64_root:
            environment = EmulatedEnvironment(options.work.resolve(), options.python, release, options.arm64_root)
        for entry in content["wheel"]:
            key = f"{entry['file']} {release}"
            if not fnmatch.fnmatch(entry["file"], options.only) or (key in results and not options.again):
                continue
            if not environment.serves(entry["file"]):
                continue
            try:
                found = tried(entry, content.get("compute", {}), environment, options.wheels / entry["file"])
            except (RuntimeError, OSError) as error:
                print(f"{release:8} {entry['file'][:60]:60} not tried: {error}", flush=True)
                continue
            print(f"{release:8} {entry['file'][:60]:60} {found['verdict']}", flush=True)
            with options.results.with_suffix(".lock").open("w") as lock:  # other runs may add to it at the same time
                fcntl.flock(lock, fcntl.LOCK_EX)
                results = json.loads(options.results.read_text()) if options.results.exists() else {}
                results[key] = found
                waiting = options.results.with_suffix(".new")
                waiting.write_text(json.dumps(results, indent=1, sort_keys=True))
                waiting.replace(options.results)
        environment.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
