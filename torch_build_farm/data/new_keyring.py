"""Run a command without the kernel keys of the login session: `python -I -S new_keyring.py COMMAND...`.

A command inherits its session's keyring (keyrings(7)), whatever name spaces it is in. Standard library alone.
"""

import ctypes
import os
import sys

_KEYCTL = 250  # system call number on x86_64, where the farm runs (asm/unistd_64.h)
_JOIN_SESSION_KEYRING = 1  # keyctl(2); without a name: a new, empty one

# Fails only in a kernel without keys, or where a container may not use them: then there are none to hide.
ctypes.CDLL(None).syscall(_KEYCTL, _JOIN_SESSION_KEYRING, None)
os.execvp(sys.argv[1], sys.argv[1:])
