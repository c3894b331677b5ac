"""Several processes that train one network: each computes its share of every batch.

::

    batch of a step     [ patch 0   patch 1 | patch 2   patch 3 ]
                              process 0           process 1
    statistics of normalisation             of the whole batch, layer by layer
    gradients                               the mean, so all make the same step
    files, validation, progress             process 0 alone

So a run ends with the weights of one process that takes whole batches, up to the order of sums.
"""

import pickle
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn
from torch.nn.parallel import DistributedDataParallel

from cristae.engine.executors import end_with_parent
from cristae.engine.progress import log, log_to_stderr
from cristae.errors import ConfigError, CristaeError, WorkerError

Result = TypeVar("Result")

LONGEST_WAIT = timedelta(days=2)
"""How long a process waits for the others; validation on the first one may take hours."""


@dataclass(frozen=True)
class Team:
    """Where a process stands among those that train together.

    Attributes:
        rank: Its number, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that validates, writes and reports."""
        return self.rank == 0

    def device(self) -> torch.device:
        """Where its arithmetic is done: a GPU of its own where there are any."""
        return torch.device("cuda", self.rank) if torch.cuda.is_available() else torch.device("cpu")

    def first_patch(self, step: int, share: int) -> int:
        """Number of the first of its ``share`` patches in a step."""
        return (step * self.count + self.rank) * share

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes of values that each has; without gradients."""
        if self.count > 1:
            distributed.all_reduce(values)
            values = values / self.count
        return values

    def join(self, network: nn.Module) -> nn.Module:
        """A network whose forward and backward passes count as those of the whole batch.

        Its normalisation layers are replaced in place; names of weights stay.
        """
        if self.count == 1:
            return network
        _share_norms(network)
        return DistributedDataParallel(network)


class SharedNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batch of all processes; on any device, in any dimensions.

    torch's own (`torch.nn.SyncBatchNorm`) is for GPUs only.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Features (n, c, ...) normalised, every process having as many."""
        if not self.training:
            return super().forward(features)
        axes = [0, *range(2, features.dim())]
        column = (1, -1, *[1] * (features.dim() - 2))
        wide = features.float()  # half precision is too coarse for statistics
        mean = _team_mean(wide.mean(axes))
        centred = wide - mean.view(column)
        variance = _team_mean(centred.square().mean(axes))
        self._remember(mean.detach(), variance.detach(), features.numel() // len(mean))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(column) + self.bias.view(column)).to(features.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def _remember(self, mean: Tensor, variance: Tensor, voxels: int) -> None:
        count = voxels * distributed.get_world_size()
        unbiased = variance * (count / max(1, count - 1))
        share = 0.1 if self.momentum is None else self.momentum
        cast("Tensor", self.running_mean).lerp_(mean, share)
        cast("Tensor", self.running_var).lerp_(unbiased, share)
        cast("Tensor", self.num_batches_tracked).add_(1)


class _TeamMean(torch.autograd.Function):
    """The mean of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        values = values.clone()
        distributed.all_reduce(values)
        return values / distributed.get_world_size()

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _TeamMean.forward(_context, gradient.contiguous())


def _team_mean(values: Tensor) -> Tensor:
    return cast("Tensor", _TeamMean.apply(values))  # type: ignore[no-untyped-call]


def _share_norms(network: nn.Module) -> None:
    for name, child in list(network.named_children()):
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
            shared = SharedNorm(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            # the very same parameters, so that an optimiser that holds them moves these
            shared.weight, shared.bias = child.weight, child.bias
            network._modules[name] = shared.to(child.weight.device)
        else:
            _share_norms(child)


def check_devices(count: int) -> None:
    """Raise a ConfigError where there are GPUs, but not one for each process."""
    if torch.cuda.is_available() and count > torch.cuda.device_count():
        raise ConfigError(
            f"devices {count}: expected at most {torch.cuda.device_count()}, the GPUs there are"
        )


def run_team(
    work: Callable[..., Result], arguments: tuple[Any, ...], count: int, *, threads: int
) -> Result:
    """Call ``work(team, *arguments)`` in processes of one team.

    All end with this call, however it ends: interrupted, or because one of them failed.

    Args:
        work: Picklable, as its arguments are.
        arguments: What it is called with after its `Team`.
        count: Number of processes.
        threads: Threads of the arithmetic of all together.

    Returns:
        What it returned in the first process.

    Raises:
        CristaeError: What any of them raised.
        WorkerError: A process that died or failed otherwise, with its number.
    """
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    with tempfile.TemporaryDirectory(prefix="cristae-") as name:
        job = _Job(count, store.port, Path(name), log.level, max(1, threads // count))
        team = spawn(  # type: ignore[no-untyped-call]
            _take_part, (job, work, arguments), count, join=False, daemon=True
        )
        assert team is not None  # noqa: S101 - as it is not joined
        try:
            while not team.join():
                pass
        except (ProcessExitedException, ProcessRaisedException) as error:
            raise _reason(error, team.processes, job) from error
        finally:
            for process in team.processes:
                process.terminate()
            for process in team.processes:
                process.join()
        return cast("Result", pickle.loads(job.result.read_bytes()))


@dataclass(frozen=True)
class _Job:
    """What each process of a team is told.

    Attributes:
        count: Number of processes.
        port: Where they meet.
        folder: Of the result, and of an error of ours.
        level: Of the log.
        threads: Of its arithmetic.
    """

    count: int
    port: int
    folder: Path
    level: int
    threads: int

    @property
    def result(self) -> Path:
        return self.folder / "result"

    @property
    def fault(self) -> Path:
        return self.folder / "fault"


def _reason(
    error: ProcessExitedException | ProcessRaisedException, processes: Sequence[Any], job: _Job
) -> CristaeError:
    """Why a team ended: an error of ours, else a process that died, else the first that failed."""
    if job.fault.exists():
        return cast("CristaeError", pickle.loads(job.fault.read_bytes()))
    own_ends = (0, 1, -signal.SIGTERM)  # finished, raised, or ended with the others
    died = [rank for rank, each in enumerate(processes) if each.exitcode not in own_ends]
    if died:
        fault = "exited without a result (killed or out of memory?)"
    else:
        log.debug("%s", error)
        fault = f"failed: {str(error).strip().splitlines()[-1]}"
    return WorkerError(f"train: process {[*died, error.error_index][0]} of {job.count} {fault}")


def _take_part(rank: int, job: _Job, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The life of one process."""
    team = Team(rank, job.count)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    end_with_parent()
    log_to_stderr(job.level if team.leads else max(job.level, 30))
    torch.set_num_threads(job.threads)
    try:
        _meet(team, job.port)
        result = work(team, *arguments)
        if team.leads:
            job.result.write_bytes(pickle.dumps(result))
        distributed.destroy_process_group()
    except CristaeError as error:
        job.fault.write_bytes(pickle.dumps(error))
        raise


def _meet(team: Team, port: int) -> None:
    device = team.device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", port, is_master=False
    )
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=team.rank,
        world_size=team.count,
        timeout=LONGEST_WAIT,
    )
