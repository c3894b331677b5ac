"""Commands of cristae that die by SIGKILL at a moment of their own: a change they make on disk.

A change is a file opened for writing, renamed or removed, a folder made or removed, and an fsync,
below one folder. Undisturbed commands count theirs.
"""

import random
import signal

from tests.programs import run

PROGRAM = """
import os, signal, sys
from pathlib import Path

root, at, prelude = sys.argv[1], int(sys.argv[2]), sys.argv[3]
done = 0
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def count():
    global done
    done += 1
    if done == at:
        os.kill(os.getpid(), signal.SIGKILL)


def is_there(path):
    return isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(root)


def on_event(name, arguments):
    if name == "open":
        if arguments[2] & WRITES and is_there(arguments[0]):
            count()
    elif name in ("os.remove", "os.rmdir"):
        if arguments[-1] != -1 or is_there(arguments[0]):  # by a descriptor, or by its path
            count()
    elif name in ("os.rename", "os.mkdir") and is_there(arguments[0]):
        count()


def fsync(descriptor, whole=os.fsync):
    if os.readlink(f"/proc/self/fd/{descriptor}").startswith(root):
        count()
    whole(descriptor)


os.fsync = fsync
sys.addaudithook(on_event)
sys.argv = ["cristae", *sys.argv[4:]]
exec(prelude)
from cristae.cli import main

try:
    main()
finally:
    print(done)
"""

MOMENTS = 6
NEVER = 0


def command(arguments, root, at=NEVER, prelude=""):
    """Run a command of cristae that dies before its change number ``at`` below ``root``."""
    return run(PROGRAM, root, at, prelude, *arguments)


def undisturbed(arguments, root, prelude=""):
    """Run a command to its end; how many changes it makes."""
    ended = command(arguments, root, prelude=prelude)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.split()[-1])


def killed(arguments, root, at, prelude=""):
    """Run a command to a moment, at which it must die."""
    died = command(arguments, root, at, prelude)
    assert died.returncode == -signal.SIGKILL, (at, died.returncode, died.stderr)


def moments(changes, name):
    """Some moments of a command: drawn, the same each time, and the last one."""
    drawn = random.Random(name).sample(range(1, changes), min(MOMENTS - 1, changes - 1))
    return [*sorted(drawn), changes]
