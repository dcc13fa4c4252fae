"""The terminal of the person who runs a command as a site: the site's code may use it, not type on it.

`ioctl(TIOCSTI)` puts characters into a terminal's input, where the person's own shell, root's, reads them after the
command. Kernels before 6.2 allow it to everybody on the terminal, later ones unless told otherwise.
"""

import ctypes
import os
import struct

from tenantry.node.errors import NodeError

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF: ld absolute word, jeq, jge, ret
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EPERM
_NUMBER, _ARCHITECTURE, _SECOND_ARGUMENT = 0, 4, 24  # offsets in struct seccomp_data; the low half, little endian
_FOREIGN_NUMBERS = 0x40000000  # x32's system calls, under x86-64's name
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # the second pastes, on the console
# AUDIT_ARCH_* and the number of ioctl.
_MACHINES = {"x86_64": (0xC000003E, 16), "aarch64": (0xC00000B7, 29)}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid_typing() -> None:
    """From here on neither this process nor any that it starts can put input into a terminal: EPERM.

    Needs no_new_privs. `NodeError` where that cannot be had and there is a terminal; without one nothing is at stake.
    """
    code = _filter(*_MACHINES.get(os.uname().machine, (0, 0)))
    program = _Program(len(code) // 8, code)
    if os.uname().machine in _MACHINES:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0:
            return
    if _has_terminal():
        raise NodeError("this kernel cannot keep the site's code from typing on this terminal; run it without: setsid")


def _filter(architecture: int, ioctl: int) -> bytes:
    """Return the program: system calls of another architecture and the two requests of ioctl are refused."""
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 7, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 5, 0, _FOREIGN_NUMBERS),
        (_EQUAL, 0, 3, ioctl),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        (_EQUAL, 2, 0, _TIOCSTI),
        (_EQUAL, 1, 0, _TIOCLINUX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError:
        return False
    return True
