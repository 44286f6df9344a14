"""Several processes share every batch, and train as one process does with all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cmr.encoders import Fragments


def rank_and_world_size() -> tuple[int, int]:
    "This process's number, and how many there are; 0 and 1 without a launcher."
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def all_gather(
    x: Tensor, # of one shape in all processes
) -> Tensor:   # (world_size, ...)
    "The tensors of all processes, without gradients."
    found = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(found, x.contiguous())
    return torch.stack(found)


class Gather(torch.autograd.Function):
    "The tensors of all processes, one after the other; backward, the gradients that the processes have for one's own are summed."
    @staticmethod
    def forward(ctx, x): # (B, ...) in each process, of one shape
        return all_gather(x).flatten(0, 1)

    @staticmethod
    def backward(ctx, slope):
        slope = slope.clone(memory_format=torch.contiguous_format)         # the sum is written over it, and others may hold the same tensor
        dist.all_reduce(slope)
        return slope.chunk(dist.get_world_size())[dist.get_rank()]


def gather_fragments(
    fragments: Fragments, # (B, k, d), this process's
) -> Fragments:           # (world_size * B, k', d), padded to the widest
    "The fragments of all processes in their order, with gradients. ValueError where processes bring batches of different size."
    if rank_and_world_size()[1] == 1: return fragments
    rows, k = all_gather(torch.tensor(fragments.mask.shape, device=fragments.values.device)).T.tolist()
    if len(set(rows)) > 1: raise ValueError(f"the ranks have batches of different size, {rows}: give every rank the same number of pairs")
    padded = fragments.padded(max(k))
    return Fragments(Gather.apply(padded.values), all_gather(padded.mask.to(torch.uint8)).flatten(0, 1).bool())


class Columns(torch.autograd.Function):
    "The score columns of all processes side by side; backward, a process keeps the slopes of its own columns."
    @staticmethod
    def forward(ctx, x): # (I, C) in each process
        ctx.width = x.shape[1]
        return all_gather(x).transpose(0, 1).flatten(1, 2)

    @staticmethod
    def backward(ctx, slope):
        return slope[:, dist.get_rank() * ctx.width:][:, :ctx.width]


def joint_scores(
    columns: Tensor, # (world_size * B, B): all images with this process's captions
) -> Tensor:         # (world_size * B, world_size * B), the same in every process
    "The score matrix of the joint batch, in which the hardest negatives are looked for."
    return Columns.apply(columns) if rank_and_world_size()[1] > 1 else columns


def all_reduce_gradients(
    parameters: Sequence[Tensor],
) -> None:
    "Add up the gradients of all processes, in place: after `gather_fragments` and `joint_scores` each has a part of the whole."
    if rank_and_world_size()[1] == 1: return
    wanted = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in wanted])
    dist.all_reduce(flat)
    for p, part in zip(wanted, flat.split([p.numel() for p in wanted])): p.grad = part.view_as(p)


def all_reduce_max(
    values: Sequence[float], # numbers, as many in each process
    device: torch.device,
) -> list[float]:
    "Place by place the largest number of any process; it waits for all of them."
    if rank_and_world_size()[1] == 1: return list(values)
    return all_gather(torch.tensor(values, dtype=torch.float64, device=device)).amax(0).tolist()


def from_main(
    value: Any,             # looked at in the main process only
    device: torch.device,
) -> Any:
    "What the main process has, in every process; it waits for all of them."
    if rank_and_world_size()[1] == 1: return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=device)
    return box[0]


def check_device(
    device: str,
    precision: str | None,
) -> None:
    "ValueError for a device or a precision that this machine does not have."
    def need(fine, message):
        if not fine: raise ValueError(message)
    need(device in ("cpu", "cuda"), f'device={device!r}: choose "cpu" or "cuda"')
    need(device == "cpu" or torch.cuda.is_available(),
         "device='cuda', but PyTorch finds no CUDA GPU here: use device='cpu', or install PyTorch for your GPU")
    need(precision in (None, "fp32", "tf32", "bf16"), f'precision={precision!r}: choose "fp32", "tf32" or "bf16"')
    need(precision != "tf32" or (device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)),
         "precision='tf32' is a way in which NVIDIA GPUs from the Ampere generation (2020) on multiply; there is none here: "
         "use fp32 or bf16")
    started = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    there = torch.cuda.device_count()
    need(device == "cpu" or started <= there, f"{started} processes for {there} GPUs: start one for each")


def make_accelerator(
    device: str | None = None,    # "cpu" or "cuda"; None: the GPU if there is one
    precision: str | None = None, # "fp32", "tf32" or "bf16"; None: fp32
):                                # accelerate.Accelerator
    "Where and how precisely to compute; connects the processes of a launcher. ValueError for what this machine does not have."
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs, parse_flag_from_env
    device = device or ("cuda" if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU") else "cpu")
    check_device(device, precision)
    if device == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
    AcceleratorState._reset_state(reset_partial_state=True) # a notebook may ask for another one later
    patient = InitProcessGroupKwargs(timeout=timedelta(days=1)) # the others wait while the main process evaluates
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bf16" else "no", kwargs_handlers=[patient])


@contextmanager
def repeatable(
    device: torch.device,
) -> Iterator[None]:
    "Inside, CUDA kernels give the same sums every time, where PyTorch has such kernels; nothing changes on the CPU."
    before, quiet = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try: yield
    finally: torch.use_deterministic_algorithms(before, warn_only=quiet)


@contextmanager
def explain_lost_process() -> Iterator[None]:
    "Inside, a process whose neighbour has gone says so, instead of how the connection broke."
    try: yield
    except RuntimeError as problem:
        if rank_and_world_size()[1] == 1 or not (isinstance(problem, dist.DistError) or "gloo" in str(problem)): raise
        raise RuntimeError("another process of this run has stopped; its own message says why. What was saved is whole: "
                           "go on with --resume") from problem
