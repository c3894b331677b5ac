"""Several processes that train one network: each computes its share of every batch.

::

    batch of a step     [ patch 0   patch 1 | patch 2   patch 3 ]
                              process 0           process 1
    statistics of normalisation             of the whole batch, layer by layer
    gradients                               the mean, so all make the same step
    files, validation, progress             process 0 alone

So a run ends with the weights of one process that takes whole batches, up to the order of sums.
"""

import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cristae.engine.executors import end_with_parent
from cristae.engine.progress import log, log_to_stderr
from cristae.errors import ConfigError, CristaeError, WorkerError

Result = TypeVar("Result")

LONGEST_WAIT = timedelta(days=2)
"""How long a process waits for the others; validation on the first one may take hours."""

LAST_WORDS_S = 3.0
"""How long to wait, after one process failed, for what the others have to say."""


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
    context = multiprocessing.get_context("spawn")
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    processes, receivers = [], []
    try:
        for rank in range(count):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_take_part,
                args=(Team(rank, count), store.port, sender, log.level, max(1, threads // count)),
                kwargs={"work": work, "arguments": arguments},
                name=f"train-{rank}",
                daemon=True,
            )
            process.start()
            sender.close()  # so that the end of the process is the end of the pipe
            processes.append(process)
            receivers.append(receiver)
        return cast("Result", _first_result(receivers))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _first_result(receivers: list[Connection]) -> Any:
    """What the first process returned once all are done; raises what went wrong in any."""
    waiting = {receiver: rank for rank, receiver in enumerate(receivers)}
    results: dict[int, Any] = {}
    faults: list[CristaeError] = []
    deadline = float("inf")
    while waiting and (left := deadline - time.monotonic()) > 0:
        for receiver in wait(list(waiting), None if left == float("inf") else left):
            rank = waiting.pop(cast("Connection", receiver))
            kind, value = _word_of(cast("Connection", receiver))
            if kind == "done":
                results[rank] = value
                continue
            where = f"train: process {rank} of {len(receivers)}"
            if kind == "fault":  # the others only lose their partner
                raise value
            faults.append(WorkerError(f"{where} {value}"))
            # one that died says nothing, and is the reason of what the others say
            faults.sort(key=lambda fault: "ended" not in str(fault))
            deadline = min(deadline, time.monotonic() + LAST_WORDS_S)
    if faults:
        raise faults[0]
    return results[0]


def _say(sender: Connection, kind: str, value: Any) -> None:
    # `Connection.send` would only lend tensors, and this process may end before they are read
    sender.send_bytes(pickle.dumps((kind, value)))


def _word_of(receiver: Connection) -> tuple[str, Any]:
    try:
        return cast("tuple[str, Any]", pickle.loads(receiver.recv_bytes()))
    except EOFError:
        return "death", "ended without a word (killed, or out of memory?)"


def _take_part(
    team: Team,
    port: int,
    sender: Connection,
    level: int,
    threads: int,
    *,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """The life of one process; says at last what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    end_with_parent()
    log_to_stderr(level if team.leads else max(level, 30))
    torch.set_num_threads(threads)
    try:
        _meet(team, port)
        _say(sender, "done", work(team, *arguments))
        distributed.destroy_process_group()
    except CristaeError as error:
        _say(sender, "fault", error)
    except Exception as error:
        log.debug("%s", traceback.format_exc())
        _say(sender, "failure", f"failed: {type(error).__name__}: {error}")
        raise SystemExit(1) from error


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
