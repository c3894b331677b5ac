"""Workers end with the process that started them, however that ended."""

import os
import signal
import time

import psutil
from tests.programs import start

WORK = """
import os
import time
from pathlib import Path
from cristae.engine.executors import Resources, run_tasks

def linger(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    import sys
    list(run_tasks(linger, [sys.argv[1]] * 3, Resources(2, "processes")))
"""


def _alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_processes_of_a_killed_parent_end(tmp_path):
    (tmp_path / "pids").mkdir()
    (tmp_path / "work.py").write_text(WORK)
    code = f"import runpy, sys; runpy.run_path({str(tmp_path / 'work.py')!r}, run_name='__main__')"
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = sys.argv\n{code}"
    parent = start(code, tmp_path / "pids")
    deadline = time.monotonic() + 60
    while len(os.listdir(tmp_path / "pids")) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(name) for name in os.listdir(tmp_path / "pids")]
    assert len(workers) == 2
    assert all(map(_alive, workers))
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, workers))
