"""Programs that tests start: a few lines of Python in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(**changes):
    """The environment in which a program finds cristae and the tests."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **changes}


def start(code, *arguments, **options):
    """Start a program; its arguments are in ``sys.argv[1:]``."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    options = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, env=environment(), **options)


def run(code, *arguments, timeout=300):
    """Run a program to its end."""
    program = start(code, *arguments)
    out, err = program.communicate(timeout=timeout)
    return subprocess.CompletedProcess(program.args, program.returncode, out, err)


def cristae(*arguments, **options):
    """Run a command of cristae."""
    command = [sys.executable, "-m", "cristae", *map(str, arguments)]
    options = {"text": True, "capture_output": True, "timeout": 300} | options
    return subprocess.run(command, check=False, env=environment(), **options)
