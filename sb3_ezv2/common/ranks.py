"""Several processes that learn one model together: ``torch.distributed`` under ``torchrun``, and one process alone.

Every process, or rank, has its own environments and its own share of the replay buffer; gradients and statistics agree.
Nothing connects before the first call that needs the others, so models can be built and loaded in any rank alone.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
import torch as th
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from sb3_ezv2.common.rank_watch import PATIENCE, RankError, Watch

TIMEOUT_VARIABLE = "EZV2_RANK_TIMEOUT"
"""Environment variable: seconds that ranks wait for one another."""
DEFAULT_TIMEOUT = 1800.0
RESTARTS_VARIABLE = "TORCHELASTIC_RESTART_COUNT"
"""Environment variable: how often torchrun has started the ranks again."""
VARIABLES = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Environment variables that make a process a rank: one that a rank starts for itself must not have them."""
STOP, GO_ON, ORDER, FAILED = range(4)
"""What the first rank tells those that follow its callbacks."""


class Ranks:
    """One process alone: it agrees with itself, at no cost."""

    rank, size = 0, 1
    leads = False
    """Whether the other ranks wait for orders, because this one runs the callbacks."""

    def enter(self, doing: str) -> None:
        """Note what this rank does now, for the others if it hangs."""

    def share(self, name: str, total: int) -> int:
        """This rank's part of a number that counts all ranks together.

        :raises ValueError: on the first rank, if it cannot be divided
        """
        return total

    def seed(self, seed: int | None) -> int | None:
        """A seed for what must differ from rank to rank; the first rank has the given one."""
        return seed

    def gathered(self, item: Any) -> list[Any]:
        """What every rank gave, in their order, on all of them."""
        return [item]

    def table(self, numbers: Sequence[float]) -> np.ndarray:
        """The numbers of every rank, float64 ``[size, len(numbers)]``, on all of them."""
        return np.array([numbers], np.float64)

    def all_agree(self, holds: bool) -> bool:
        """Whether something holds on every rank."""
        return holds

    def average_gradients(self, parameters: Iterable[th.Tensor]) -> None:
        """Let all ranks have the mean of their gradients."""

    def led(self, act: Callable[[], bool], obey: Callable[..., Any]) -> bool:
        """Let the first rank act, and the others do what it orders meanwhile.

        :param act: of the first rank: whether to go on
        :param obey: of the others: takes what :meth:`order` was given
        :return: what ``act`` returned on the first rank
        """
        return act()

    def order(self, *order: Any) -> None:
        """Let the others do the same as this rank is about to do; only while this one :attr:`leads`."""

    def refuse(self, message: str) -> NoReturn:
        """End what cannot work, on all ranks, with one error.

        :raises ValueError: with the message, on the first rank
        :raises SystemExit: on the others, with status 1, once the first one can have reported it
        """
        raise ValueError(message)

    def let_the_first_report(self) -> None:
        """Wait on other ranks, which torchrun ends once the first rank has ended; on the first one do nothing."""


ALONE = Ranks()


class TorchRanks(Ranks):
    """One of several processes that ``torchrun`` started.

    :param rank: from 0
    :param size: number of ranks, at least 2
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.leads = False
        self._watch = Watch(rank, size)
        self._is_connected = False

    def enter(self, doing: str) -> None:
        """See :meth:`Ranks.enter`."""
        self._watch.enter(doing)

    def share(self, name: str, total: int) -> int:
        """See :meth:`Ranks.share`."""
        if total % self.size:
            self.refuse(
                f"{name}={total} is that of all ranks together and must be a multiple of their number, {self.size}"
            )
        return total // self.size

    def seed(self, seed: int | None) -> int | None:
        """See :meth:`Ranks.seed`."""
        if seed is None or self.rank == 0:
            return seed
        return int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0])

    def gathered(self, item: Any) -> list[Any]:
        """See :meth:`Ranks.gathered`."""
        found: list[Any] = [None] * self.size
        with self._together():
            dist.all_gather_object(found, item)
        return found

    def table(self, numbers: Sequence[float]) -> np.ndarray:
        """See :meth:`Ranks.table`."""
        ours = th.tensor(numbers, dtype=th.float64)
        found = [th.empty_like(ours) for _ in range(self.size)]
        with self._together():
            dist.all_gather(found, ours)
        return th.stack(found).numpy()

    def all_agree(self, holds: bool) -> bool:
        """See :meth:`Ranks.all_agree`."""
        return bool(self.table([holds]).all())

    def average_gradients(self, parameters: Iterable[th.Tensor]) -> None:
        """See :meth:`Ranks.average_gradients`."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = th.cat([gradient.reshape(-1) for gradient in gradients])
        with self._together():
            dist.all_reduce(flat)
        flat *= 1.0 / self.size
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def take_weights(self, tensors: Iterable[th.Tensor]) -> None:
        """Let all ranks have the first rank's numbers."""
        with self._together(), th.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor.data, 0)
                th.autograd.graph.increment_version(tensor)  # which PyTorch does not see through ``data``

    def led(self, act: Callable[[], bool], obey: Callable[..., Any]) -> bool:
        """See :meth:`Ranks.led`."""
        if self.rank == 0:
            return self._lead(act)
        while (told := self._tell(GO_ON)) == ORDER:
            obey(*self.gathered(None)[0])
        if told == FAILED:
            self.let_the_first_report()
            raise SystemExit(1)
        return told == GO_ON

    def _lead(self, act: Callable[[], bool]) -> bool:
        self.leads = True
        try:
            goes_on = act()
        except RankError:
            raise
        except BaseException:
            self._tell(FAILED)
            raise
        finally:
            self.leads = False
        self._tell(GO_ON if goes_on else STOP)
        return goes_on

    def order(self, *order: Any) -> None:
        """See :meth:`Ranks.order`."""
        self._tell(ORDER)
        self.gathered(order)

    def _tell(self, code: int) -> int:
        """What the first rank says."""
        told = th.tensor(code)
        with self._together():
            dist.broadcast(told, 0)
        return int(told)

    def refuse(self, message: str) -> NoReturn:
        """See :meth:`Ranks.refuse`."""
        if self.rank == 0:
            raise ValueError(message)
        self.let_the_first_report()
        raise SystemExit(1)

    def let_the_first_report(self) -> None:
        """See :meth:`Ranks.let_the_first_report`."""
        if self.rank > 0:
            time.sleep(PATIENCE)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Something that all ranks do at the same time.

        :raises RankError: if another rank is gone or does not answer in time
        """
        if not self._is_connected:
            self._connect()
        with self._watch.waiting():
            try:
                yield
            except RuntimeError as error:
                raise self._watch.explained(error) from error

    def _connect(self) -> None:
        timeout = read_timeout()
        if not dist.is_initialized():
            store = _open_store(self.rank, self.size, timeout)
            self._watch.begin(store, timeout)
            backend = "cpu:gloo,cuda:nccl" if th.cuda.is_available() and dist.is_nccl_available() else "gloo"
            dist.init_process_group(
                backend,
                store=store,
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=timeout),
            )
        self._is_connected = True


def read_timeout() -> float:
    """Seconds that ranks wait for one another.

    :raises ValueError: if the environment variable is no positive number
    """
    text = os.environ.get(TIMEOUT_VARIABLE, str(DEFAULT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < 1e9:
        raise ValueError(f"{TIMEOUT_VARIABLE}={text!r} must be a number of seconds larger than 0")
    return seconds


def _open_store(rank: int, size: int, timeout: float) -> Any:
    """Where the ranks find each other.

    :raises ValueError: if its port is taken
    """
    try:
        found, _, _ = next(rendezvous("env://", rank, size, timeout=timedelta(seconds=timeout)))
    except RuntimeError as error:
        address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise ValueError(
            f"the ranks cannot meet at MASTER_ADDR={address}, MASTER_PORT={port}: {str(error).splitlines()[0]}; if the "
            "port is in use, give torchrun another --master-port, or --standalone on a single machine"
        ) from error
    # torchrun keeps what the ranks wrote there before they were started again.
    store: Any = dist.PrefixStore  # type: ignore[attr-defined]
    return store(f"ezv2/{os.environ.get(RESTARTS_VARIABLE, '0')}", found)


@lru_cache
def _torch_ranks(rank: int, size: int) -> TorchRanks:
    return TorchRanks(rank, size)


def ranks_of_process() -> Ranks:
    """The ranks that this process belongs to: those that torchrun says, or none but itself."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ALONE
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    return _torch_ranks(rank, size) if size > 1 else ALONE


def ranks_on_machine() -> int:
    """How many ranks share the cores of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks_of_process().size > 1 else 1


def choose_gpu(device: str | th.device) -> None:
    """Let ``"cuda"`` and ``"auto"`` mean a GPU of this rank's own.

    :raises ValueError: if there are fewer GPUs than ranks on this machine
    """
    ranks, name = ranks_of_process(), str(device)
    if ranks.size == 1 or name not in ("auto", "cuda") or not th.cuda.is_available():
        return
    local, n_gpus = int(os.environ.get("LOCAL_RANK", "0")), th.cuda.device_count()
    if ranks_on_machine() > n_gpus:
        ranks.refuse(
            f"device={name!r}: {ranks_on_machine()} ranks on a machine of {n_gpus} GPUs; give torchrun "
            f"--nproc-per-node {n_gpus}, or use device='cpu'"
        )
    th.cuda.set_device(local)
