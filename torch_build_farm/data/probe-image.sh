# Runs in a base image and prints what is in it: one fact a line, fields separated by tabs.
for python in /opt/python/*/bin/python; do
  [ -x "$python" ] || continue
  "$python" -I -c '
import os, platform, sys, sysconfig
from importlib.metadata import PackageNotFoundError, version
tag = "cp%d%d%s" % (*sys.version_info[:2], "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else "")
folder = sys.argv[1].split("/")[-3]
try:
    front_end = version("build")
except PackageNotFoundError:
    front_end = ""
headers = os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h"))
if platform.python_implementation() == "CPython" and folder.endswith("-" + tag) and headers and front_end:
    print("python", tag, platform.python_version(), sys.argv[1], front_end, sep="\t")
    flags = [sysconfig.get_config_var(name) or "" for name in ("LDFLAGS", "LDSHARED", "LDCXXSHARED")]
    print("linker-flags", tag, " ".join(" ".join(flags).split()), sep="\t")
' "$python"
done
for name in bash tar which mktemp auditwheel patchelf c++; do
  command -v "$name" > /dev/null || printf 'lacking\t%s\n' "$name"
done
[ -x /opt/python/cp39-cp39/bin/python ] || printf 'lacking\t%s\n' /opt/python/cp39-cp39/bin/python
printf 'compiler\t%s\n' "$(c++ --version 2> /dev/null | head -n 1)"
printf 'auditwheel\t%s\n' "$(auditwheel --version 2> /dev/null | head -n 1 | cut -d' ' -f2)"
# Only an nvcc on PATH counts: that is where a build looks for it.
printf 'nvcc\t%s\n' "$(nvcc --version 2> /dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p')"
