"""Start a command in name spaces of its own, as `python -I -S name_spaces.py [OPTION...] -- COMMAND...` (Linux).

    --no-network        it has a loopback and no other network
    --mount FROM AT     it sees the folder FROM at AT as well, and nobody else does; both exist
    --chdir FOLDER      it starts there

Whoever may not make name spaces makes them within a user name space, in which the caller's own numbers stay as they are
and no other user is known.

It ends with status 125 and a line on standard error where the kernel gives no name space. Own code, since util-linux's
unshare cannot start the loopback, and without root it takes a second program to drop what it may do.
"""

import argparse
import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000  # linux/sched.h
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000  # linux/mount.h
SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # linux/sockios.h, linux/if.h
NO_NAME_SPACE = 125

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> None:
    """Raise OSError for a system call that failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unshare(flags: int) -> None:
    """The system call of this name, which Python has from 3.12 on. Raises OSError."""
    check(libc.unshare(flags))


def enter_new(flags: int) -> None:
    """Go into new name spaces. Raises OSError."""
    user, group = os.geteuid(), os.getegid()
    try:
        unshare(flags)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        unshare(CLONE_NEWUSER | flags)
        # In this order: who may not set groups may map one's own (user_namespaces(7)).
        for name, text in (("uid_map", f"{user} {user} 1"), ("setgroups", "deny"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(text)


def start_loopback() -> None:
    """Switch `lo` on, which a new name space has switched off. Raises OSError."""
    request = struct.pack("16sH22x", b"lo", IFF_UP)  # struct ifreq
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)


def mount(folders: Sequence[tuple[str, str]]) -> None:
    """Mount each first folder at the second one too. Raises OSError."""
    # Else systemd's default for / would show the mounts to everybody.
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    for folder, at in folders:
        check(libc.mount(os.fsencode(folder), os.fsencode(at), None, MS_BIND | MS_REC, None))


def main(words: list[str]) -> None:
    """Start the command that `words` name after the options."""
    end = words.index("--")
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-network", action="store_true")
    parser.add_argument("--mount", nargs=2, action="append", default=[])
    parser.add_argument("--chdir")
    options, command = parser.parse_args(words[:end]), words[end + 1 :]
    flags = (CLONE_NEWNET if options.no_network else 0) | (CLONE_NEWNS if options.mount else 0)
    try:
        enter_new(flags)
        if options.no_network:
            start_loopback()
        if options.mount:
            mount(options.mount)
        if options.chdir:
            os.chdir(options.chdir)
    except OSError as error:
        limit = error.errno == errno.ENOSPC  # of name spaces, not of the disk (unshare(2))
        reason = "the limit of name spaces is reached (user.max_*_namespaces)" if limit else error.strerror
        sys.stderr.write(f"no name space: {reason}\n")
        sys.exit(NO_NAME_SPACE)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
