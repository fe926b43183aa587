"""What each of two gloo processes does in `test_circumstances.py`; kept apart because they are spawned."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import gta
from tests.conftest import spread, tiny_vit

STEPS, LR, WEIGHT = 3, 0.01, 3.0
WAYS = ("ddp_in_guide", "guide_in_ddp", "fsdp")


def pair() -> tuple[nn.Module, nn.Module]:
    source = tiny_vit()
    return spread(copy.deepcopy(source)).train(), source


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 3, 40, 40, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3])


def train(guided: nn.Module, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in range(STEPS):
        logits, penalty = guided(images)
        (F.cross_entropy(logits, labels) + penalty).backward()
        optimizer.step()
        optimizer.zero_grad()


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    images, labels = batch()
    half = slice(2 * rank, 2 * rank + 2)
    for way in WAYS:
        torch.manual_seed(0)
        model, source = pair()
        if way == "fsdp":
            for block in model.blocks:
                fully_shard(block)
            fully_shard(model)
            guided: nn.Module = gta.guide(model, source, weight=WEIGHT)
        elif way == "guide_in_ddp":
            guided = DistributedDataParallel(gta.guide(model, source, weight=WEIGHT))
        else:
            guided = gta.guide(DistributedDataParallel(model), source, weight=WEIGHT)
        train(guided, model, images[half], labels[half])
        full = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
        if rank == 0:
            torch.save([p.detach() for p in full], Path(folder, f"{way}.pt"))
    dist.barrier()  # or one may leave while the other still talks to it
    dist.destroy_process_group()
