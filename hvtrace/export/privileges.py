"""Giving up what the process that talks to the network does not need."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal

from hvtrace.errors import HvtraceError

# include/uapi/linux/prctl.h, include/uapi/linux/capability.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CAPABILITY_VERSION_3 = 0x20080522


def find_user(name: str | None) -> tuple[int, int] | None:
    """(uid, gid) to serve as: of user `name`, or of nobody; None where we are not root ourselves.

    Raises HvtraceError.
    """
    if os.geteuid() != 0:
        if name:
            raise HvtraceError(f"--user {name}: only root can serve as another user")
        return None
    try:
        user = pwd.getpwnam(name or "nobody")
    except KeyError:
        raise HvtraceError(f"there is no user {name or 'nobody'}: --user takes another") from None
    if user.pw_uid == 0:
        raise HvtraceError("--user root: HTTP is served without privileges, name another user")
    return user.pw_uid, user.pw_gid


def drop(user: tuple[int, int] | None) -> None:
    """Become `user`, as (uid, gid), or stay who we are; no capability is left, nor comes back.

    This process ends with its parent from now on. Raises OSError.
    """
    if user:
        uid, gid = user
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    libc = ctypes.CDLL(None, use_errno=True)
    none = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: twice 32 bits each
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    for result in (
        libc.capset(header, none),
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),  # a change of user clears it
    ):
        if result:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
