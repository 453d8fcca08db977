"""torch.distributed by NCCL's calls, on several emulated GPUs: what each rank gets."""

import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from processes import run_together
from torch.distributed import ReduceOp
from torch.distributed.tensor import distribute_tensor, init_device_mesh
from torch.distributed.tensor.placement_types import Shard

pytestmark = pytest.mark.usefixtures("fork_server")
KIND = {"device": "cuda"}
LONG = 100_001  # more than one piece of the shared memory in fp32, and not a multiple of it


@pytest.mark.parametrize("ranks", [2, 8])
def test_each_rank_gets_what_torch_promises(monkeypatch, ranks):
    monkeypatch.setenv("EMULATED_GPUS", str(ranks))
    run_together(check_collectives, ranks)


def check_collectives() -> None:
    """As one of the ranks: sums, copies and messages, of small tensors and of long ones."""
    rank, ranks = begin()
    values = [one * torch.arange(1.0, LONG + 1) for one in range(1, ranks + 1)]
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        here = values[rank].to(dtype).cuda()
        given = [one.to(dtype).double() for one in values]
        check_sums(here, given)
    check_copies(values[rank].cuda(), values)
    check_messages(rank, ranks)
    whole = torch.arange(3.0 * ranks + 1, **KIND)
    parts = distribute_tensor(whole, init_device_mesh("cuda", (ranks,)), [Shard(0)])
    assert (2 * parts).full_tensor().tolist() == (2 * whole).tolist()
    assert parts.norm().full_tensor().item() == pytest.approx(whole.norm().item())
    dist.destroy_process_group()


def begin() -> tuple[int, int]:
    """Join the other ranks, each with a GPU of its own. The rank, and how many there are."""
    rank = int(os.environ["RANK"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", timeout=timedelta(minutes=10))
    return rank, dist.get_world_size()


def check_sums(here: torch.Tensor, given: list[torch.Tensor]) -> None:
    """Joined on all ranks. The part of a rank of what is joined, on that rank."""
    stacked = torch.stack(given)
    expected = {ReduceOp.SUM: stacked.sum(0), ReduceOp.MAX: stacked.amax(0)}
    if here.is_floating_point():
        expected[ReduceOp.AVG] = stacked.mean(0)
    for operation, values in expected.items():
        whole = here.clone()
        dist.all_reduce(whole, operation)
        assert whole.cpu().equal(values.to(here.dtype)), operation
    rank, ranks = dist.get_rank(), dist.get_world_size()
    size = len(here) // ranks
    part = here.new_empty(size)
    dist.reduce_scatter_tensor(part, here[: size * ranks])
    own = expected[ReduceOp.SUM][rank * size : (rank + 1) * size]
    assert part.cpu().equal(own.to(here.dtype))


def check_copies(here: torch.Tensor, values: list[torch.Tensor]) -> None:
    """All values on all ranks, also of sizes that differ, and those of the last rank."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    found = [torch.empty_like(here) for _ in values]
    dist.all_gather(found, here)
    assert torch.stack(found).cpu().equal(torch.stack(values))
    found = [torch.empty(one + 1, **KIND) for one in range(ranks)]
    dist.all_gather(found, here[: rank + 1])
    assert [one.tolist() for one in found] == [v[: n + 1].tolist() for n, v in enumerate(values)]
    copy = here.clone()
    dist.broadcast(copy, ranks - 1)
    assert copy.cpu().equal(values[-1])
    objects = [None] * ranks
    dist.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": one} for one in range(ranks)]


def check_messages(rank: int, ranks: int) -> None:
    """A part for each rank from the first one, and a ring in which all send before they receive."""
    part = torch.empty(2, **KIND)
    parts = [torch.full((2,), float(one), **KIND) for one in range(ranks)]
    dist.scatter(part, parts if rank == 0 else None)
    assert part.tolist() == [rank, rank]
    sent, received = torch.full((LONG,), float(rank), **KIND), torch.empty(LONG, **KIND)
    ways = ((dist.isend, sent, (rank + 1) % ranks), (dist.irecv, received, (rank - 1) % ranks))
    for work in dist.batch_isend_irecv([dist.P2POp(*way) for way in ways]):
        work.wait()
    assert received.unique().tolist() == [(rank - 1) % ranks]


def test_different_calls_are_told(monkeypatch):
    """On a card the ranks would wait for each other for ever, or get wrong values."""
    monkeypatch.setenv("EMULATED_GPUS", "2")
    run_together(call_differently, 2)


def call_differently() -> None:
    rank, _ = begin()
    with pytest.raises(RuntimeError, match=r"NCCL: rank \d calls AllReduce of "):
        dist.all_reduce(torch.ones(3 + rank, **KIND))
