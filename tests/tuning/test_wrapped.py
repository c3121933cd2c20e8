"""A model is tuned first and made ready for several processes then, never the other way round."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import vision_peft as vp

ATTACHING: dict[str, Callable[[Any], Any]] = {
    "attach": lambda model: vp.attach(model, vp.LoRA(rank=2)),
    "replace_head": lambda model: vp.replace_head(model, "linear", 3),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone."""
    file = Path(tmp_path_factory.mktemp("group"), "meeting")
    dist.init_process_group("gloo", f"file://{file}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def tiny_vit() -> Any:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2, num_classes=0)


def sharded(model: Any) -> Any:
    mesh = init_device_mesh("cpu", (1,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@pytest.mark.parametrize("name", ATTACHING)
@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (DistributedDataParallel, r"wrapped in DistributedDataParallel: pass model\.module"),
        (lambda model: torch.compile(model, backend="eager"), r"compiled by torch\.compile: pass model\._orig_mod"),
        (sharded, r"cut into shards by fully_shard: attach and give it its head first, then shard"),
    ],
    ids=["ddp", "compiled", "fully_shard"],
)
def test_tuning_what_is_wrapped_already_is_refused(
    alone: None, wrap: Callable[[nn.Module], Any], words: str, name: str
) -> None:
    model = wrap(tiny_vit())
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=words):
        ATTACHING[name](model)
    assert list(model.state_dict()) == names


def test_a_model_that_was_tuned_before_it_was_sharded_still_gives_its_tuned_tensors(alone: None) -> None:
    model = vp.attach(tiny_vit(), vp.LoRA(rank=2))
    vp.replace_head(model, "linear", 3)
    names = set(vp.tuned_state_dict(model))
    assert set(vp.tuned_state_dict(sharded(model))) == names
    with pytest.raises(ValueError, match="then shard"):
        vp.attach(model, vp.VPT(tokens=2))
