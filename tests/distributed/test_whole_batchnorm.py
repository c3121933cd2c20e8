"""BatchNorm over two processes gives what torch's gives for their batches together, forward and backward."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.pair import in_two_processes
from torch import nn

from vision_peft.distributed.device import choose_compute
from vision_peft.distributed.parallel import Parallel
from vision_peft.distributed.processes import join
from vision_peft.distributed.whole_batchnorm import _Normalise

CASES = {  # a norm, and the shape of its batch
    "features": (nn.BatchNorm1d(3, affine=False, eps=1e-6), (6, 3)),
    "maps": (nn.BatchNorm2d(3, affine=False, eps=1e-6), (6, 3, 4, 5)),
    "maps with weights": (nn.BatchNorm2d(3), (6, 3, 4, 5)),
}


def norm_share(name: str, rank: int, world: int) -> dict[str, Any]:
    """Two updates' worth of a share of a batch: outputs, gradients and running statistics."""
    torch.manual_seed(0)
    norm, shape = CASES[name]
    model = nn.Sequential(nn.Conv2d(3, 3, 1) if len(shape) == 4 else nn.Linear(3, 3), norm).train()
    batch, weights = torch.randn(shape) * 2 + 1, torch.randn(shape)
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    parallel = Parallel(model, choose_compute("cpu", "fp32"))
    share = slice(rank * 6 // world, (rank + 1) * 6 // world)
    for _ in range(2):
        outputs = parallel.forward(batch[share])
        (outputs * weights[share]).mean().backward()
    parallel.close()
    assert type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"outputs": outputs.detach(), "gradients": gradients, "buffers": dict(norm.named_buffers())}


def norm_shares(rank: int, _: Path) -> dict[str, Any]:
    join(choose_compute("cpu", "fp32"), 120)
    return {name: norm_share(name, rank, 2) for name in CASES}


def test_two_processes_norm_as_one(tmp_path: Path) -> None:
    shares = [each["given"] for each in in_two_processes(norm_shares, tmp_path)]
    for name in CASES:
        one = norm_share(name, 0, 1)
        torch.testing.assert_close(torch.cat([share[name]["outputs"] for share in shares]), one["outputs"])
        for share in shares:
            torch.testing.assert_close(share[name]["gradients"], one["gradients"])
            torch.testing.assert_close(share[name]["buffers"], one["buffers"])
        for buffer, other in zip(shares[0][name]["buffers"].values(), shares[1][name]["buffers"].values(), strict=True):
            assert torch.equal(buffer, other)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 2)])
def test_the_gradient_is_that_of_the_formula(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    weight, bias = (torch.randn(3, dtype=torch.double, requires_grad=True) for _ in range(2))
    norm = nn.functional.batch_norm
    for given in ((weight, bias), (None, None)):
        found = _Normalise.apply(x, *given, 1e-5)[0]
        wanted = norm(x, None, None, *given, training=True)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
        inputs = [x, *(each for each in given if each is not None)]
        upstream = torch.randn(shape, dtype=torch.double)
        ours, torchs = (torch.autograd.grad(each, inputs, upstream) for each in (found, wanted))
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-5)
