"""cibuildwheel, run so that what is in its container stays mere bytes to this machine.

The farm starts this file in place of `python -m cibuildwheel`; it imports nothing of the farm. Two things differ from
cibuildwheel 4.3. Wheels are copied out as regular files: `docker cp` unpacks what the engine sends here and follows
links, and foreign code that still runs in the container can exchange a folder for a link meanwhile. And lines have a
bound: cibuildwheel reads a line of any length into memory.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path, PurePath
from typing import IO, Any

from cibuildwheel.__main__ import main
from cibuildwheel.oci_container import OCIContainer
from cibuildwheel.platforms import linux

_WHEEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!-]*\.whl")
_MOST_ENTRIES = 1000  # of the folder that wheels are copied from, which has one
_MOST_BYTES = 8_000_000_000  # of wheels; the farm reads none that is larger
_LINE = 65536  # bytes of a line that are read at once
_FOOTER = 64  # at least the length of what cibuildwheel recognizes the end of a command by
_CAPTURED = 16_000_000  # bytes of output that cibuildwheel keeps: names of files, the environment


class BoundedLines:
    """The lines of `stream`; one that is longer than `_LINE` comes in parts.

    `left` is how many bytes may still come, None where any number may.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._carry = b""
        self.left: int | None = None

    def readline(self) -> bytes:
        """The next line, or the next part of one."""
        line = self._carry + self._stream.readline(_LINE)
        self._carry = b""
        if len(line) >= _LINE and not line.endswith(b"\n"):
            # The end of a command is recognized in one part alone.
            line, self._carry = line[:-_FOOTER], line[-_FOOTER:]
        if self.left is not None:
            self.left -= len(line)
            if self.left < 0:
                sys.exit(f"a command in the container printed more than {_CAPTURED} bytes where a name was expected")
        return line

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


class Container(OCIContainer):
    """cibuildwheel's container, from which only wheels are copied."""

    def __enter__(self) -> Container:
        super().__enter__()
        self.bash_stdout: Any = BoundedLines(self.bash_stdout)
        return self

    def call(
        self,
        args: Sequence[str | PathLike[str]],
        env: Mapping[str, str] | None = None,
        capture_output: bool = False,
        cwd: str | PathLike[str] | None = None,
    ) -> str:
        """Run a command, PyPA's build at the top. Ends the program where it prints too much of what is to be captured.

        `-m` takes a module of the working folder first, which is the project: with a build.py there, as Poetry's manual
        calls a build script, that would be all that runs.
        """
        if cwd is None and list(args[:3]) == ["python", "-m", "build"]:
            cwd = "/"
        lines = self.bash_stdout
        if isinstance(lines, BoundedLines):
            lines.left = _CAPTURED if capture_output else None
        output: str = super().call(args, env, capture_output, cwd)
        return output

    def copy_out(self, from_path: PurePath, to_path: Path) -> None:
        """Copy the wheels of a folder of the container; all else stays there."""
        to_path.mkdir(parents=True, exist_ok=True)
        command = [self.engine.name, "cp", f"{self.name}:{from_path}/.", "-"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                copy_wheels(process.stdout, to_path)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)


def copy_wheels(stream: IO[bytes], folder: Path) -> None:
    """Write the wheels in the tar archive `stream` to `folder`, which has none of their names.

    Ends the program where they are too many or too large.
    """
    entries = size = 0
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            entries += 1
            name = posixpath.basename(member.name)
            wheel = member.isreg() and not member.issparse() and _WHEEL.fullmatch(name)
            size += member.size if wheel else 0
            if entries > _MOST_ENTRIES or size > _MOST_BYTES:
                sys.exit("the container has more to copy than a wheel")
            content = archive.extractfile(member) if wheel else None
            if content is not None:
                # "x": a second member of that name, or a link of that name, is refused.
                with (folder / name).open("xb") as file:
                    shutil.copyfileobj(content, file)
    while stream.read(_LINE):  # the padding, which a tar program writes to its end
        pass


if __name__ == "__main__":
    setattr(linux, "OCIContainer", Container)  # noqa: B010 (imported there, which type checkers call private)
    main()
