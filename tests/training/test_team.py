"""Two processes train as one: the same weights, also after Ctrl-C; a lost process is told."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
import yaml

from cristae.configuration import to_plain
from cristae.errors import ConfigError, InputError, WorkerError, raise_faults
from cristae.training.config import TrainConfig
from cristae.training.config_checks import check_train_config
from cristae.training.state import TrainingFiles
from cristae.training.team import SharedNorm, Team, run_team
from cristae.training.train import train_model

from .test_train import STILL, TINY, samples  # noqa: F401  (a fixture)

CRISTAE = (sys.executable, "-m", "cristae")


def shared_config(**changes):
    """A rate that does not depend on the number of steps, a mask, and a seam's weight."""
    return TrainConfig(
        **{
            "steps": 100_000,
            "batch": 4,
            "patch": (4, 32, 32),
            "optimizer": "sgd",
            "learning_rate": 0.05,
            "schedule": "warmup_multistep",
            "milestones": (90_000,),
            "warmup_steps": 1,
            "network": TINY,
            "intensity": "uint8",
            "grey": STILL,
            "validate_every": 1000,
            "validation_patches": 1,
            "calibration_batches": 1,
            "checkpoint_every": 1,
            **changes,
        }
    )


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_two_processes_equal_one(samples, tmp_path):  # noqa: F811
    """Begun from the command line, ended by Ctrl-C, taken up again: as one process at once."""
    out = tmp_path / "two.pt"
    tree = {"volumes": [to_plain(s) for s in samples], "out": str(tmp_path)}
    tree["train"] = to_plain(shared_config())
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    process = subprocess.Popen(
        [*CRISTAE, "train", str(tmp_path / "run.yaml"), "--out", str(out), "--devices", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a job in the background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(TrainingFiles(out).checkpoint, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, said = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, said
    assert "goes on from here" in said
    _, left = psutil.wait_procs(children, timeout=30)
    assert {child.status() for child in left} <= {psutil.STATUS_ZOMBIE}  # nobody may reap them
    done = torch.load(TrainingFiles(out).checkpoint, weights_only=True)["step"]
    config = shared_config(steps=done + 2, devices=2)
    two = train_model(config, samples, out, threads=2)
    one = train_model(shared_config(steps=done + 2), samples, tmp_path / "one.pt", threads=1)
    for name, tensor in one.state_dict.items():
        torch.testing.assert_close(two.state_dict[name], tensor, rtol=0, atol=1e-5)
    tables = [
        path.read_text().splitlines() for path in (TrainingFiles(out).table, tmp_path / "one.csv")
    ]
    first, second = (dict(zip(t[0].split(","), t[-1].split(","), strict=True)) for t in tables)
    for name in ("step", "loss", "bce", "dice", "gradient_norm", "validation_loss"):
        assert float(first[name]) == pytest.approx(float(second[name]), rel=1e-4)


def lose_one(team, fault):
    """The last process fails, the others wait for it for ever."""
    if fault:
        raise_faults("a file", [fault])
    if team.rank == team.count - 1:
        os._exit(9)
    torch.distributed.barrier()


def test_a_lost_process_is_named():
    with pytest.raises(WorkerError, match="process 1 of 2 exited without a result"):
        run_team(lose_one, ("",), 2, threads=2)
    with pytest.raises(InputError, match="a file: broken"):
        run_team(lose_one, ("broken",), 1, threads=1)


def test_shares_are_equal_and_cover_the_batch():
    """Two steps of a batch of 6 by 3 processes: patches 0 to 11, each once."""
    firsts = [Team(rank, 3).first_patch(step, 2) for step in range(2) for rank in range(3)]
    assert firsts == [0, 2, 4, 6, 8, 10]
    with pytest.raises(ConfigError, match="batch 4: expected a multiple of devices, 3"):
        check_train_config(shared_config(devices=3))


def shared_norm_of(team, features):
    """What a shared norm makes of bfloat16 features, and what of their gradient."""
    norm = SharedNorm(features.shape[1])
    given = features.bfloat16().requires_grad_()
    found = norm(given)
    found.float().square().sum().backward()
    return found.detach(), given.grad, norm.running_mean, norm.running_var


def test_statistics_of_half_precision_are_float32():
    """Features far from 0: their variance would be lost in bfloat16; as torch's own norm."""
    features = 100 + torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    found, gradient, mean, variance = run_team(shared_norm_of, (features,), 1, threads=1)
    assert (found.dtype, gradient.dtype, mean.dtype) == (torch.bfloat16,) * 2 + (torch.float32,)
    norm = torch.nn.BatchNorm2d(3)
    given = features.bfloat16().float().requires_grad_()
    expected = norm(given)
    expected.square().sum().backward()
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0.01)
    torch.testing.assert_close(mean, norm.running_mean)
    torch.testing.assert_close(variance, norm.running_var, rtol=1e-4, atol=1e-5)
