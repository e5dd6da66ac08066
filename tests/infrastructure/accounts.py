"""Runs a piece of a test as another account, in a fork: the interpreter itself may be closed to that account."""

import os
import pwd
import traceback
from collections.abc import Callable


def run_as(name: str, work: Callable[[], str]) -> str:
    """What `work` returned in a child that gave up root for good; raises AssertionError with its traceback."""
    entry = pwd.getpwnam(name)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            os.chdir("/")
            os.setgroups([])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            os.write(writing, work().encode())
            code = 0
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-8_000:])
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said
    return said
