"""Start a command without a network, as `python -I -S no_network.py COMMAND...` (Linux).

The command gets a network name space of its own, which has a loopback and nothing else. Whoever may not make one makes
it within a user name space, in which the caller's own numbers stay as they are and no other user is known.

It ends with status 125 and a line on standard error where the kernel gives no name space. Own code, since util-linux's
unshare cannot start the loopback, and without root it takes a second program to drop what it may do.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # linux/sockios.h, linux/if.h
NO_NAME_SPACE = 125


def unshare(flags: int) -> None:
    """The system call of this name, which Python has from 3.12 on. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def leave_network() -> None:
    """Go into a new network name space. Raises OSError."""
    user, group = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWNET)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
        # In this order: who may not set groups may map one's own (user_namespaces(7)).
        for name, text in (("uid_map", f"{user} {user} 1"), ("setgroups", "deny"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(text)


def start_loopback() -> None:
    """Switch `lo` on, which a new name space has switched off. Raises OSError."""
    request = struct.pack("16sH22x", b"lo", IFF_UP)  # struct ifreq
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)


if __name__ == "__main__":
    try:
        leave_network()
        start_loopback()
    except OSError as error:
        limit = error.errno == errno.ENOSPC  # of name spaces, not of the disk (unshare(2))
        reason = "the limit user.max_net_namespaces is reached" if limit else error.strerror
        sys.stderr.write(f"no network name space: {reason}\n")
        sys.exit(NO_NAME_SPACE)
    os.execvp(sys.argv[1], sys.argv[1:])
