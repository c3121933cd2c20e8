"""Figures of depths and their loss against references written out pixel by pixel."""

import json
import math

import pytest
import torch
from support.pair import in_two_processes

from vision_peft.distributed.device import choose_compute
from vision_peft.distributed.processes import is_distributed, join
from vision_peft.tasks.depth import Depth
from vision_peft.tasks.depth_sums import UNIT, DepthSums, scale_invariant_loss, sum_exactly


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    true = 0.5 + 4 * torch.rand(2, 6, 5, generator=generator)
    true[torch.rand(true.shape, generator=generator) < 0.3] = 0
    return true * torch.exp(0.3 * torch.randn(true.shape, generator=generator)) + (true == 0), true


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_written_out(seed):
    found, true = draw(seed)
    sums, pairs = DepthSums(), []
    for one, other in zip(found, true, strict=True):
        sums.add(one, other)
        pairs += [(d, t) for d, t in zip(one.flatten().tolist(), other.flatten().tolist(), strict=True) if t > 0]
    figures = sums.figures()
    assert abs(figures["rmse"] - math.sqrt(sum((d - t) ** 2 for d, t in pairs) / len(pairs))) < 1e-6
    assert abs(figures["abs_rel"] - sum(abs(d - t) / t for d, t in pairs) / len(pairs)) < 1e-6
    assert figures["delta1"] == sum(max(d / t, t / d) < 1.25 for d, t in pairs) / len(pairs)


def test_without_a_measurement_there_are_no_figures():
    sums = DepthSums()
    sums.add(torch.ones(3, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="no pixel of the maps has a depth"):
        sums.figures()


@pytest.mark.parametrize("images", [28, 29, 60])
def test_figures_of_many_far_pixels_are_exact(images):
    sums, true = DepthSums(), torch.full((480, 640), 2000.0)
    for _ in range(images):
        sums.add(true + 1000, true)
    assert sums.figures() == {"rmse": 1000.0, "abs_rel": 0.5, "delta1": 0.0}
    parts = [DepthSums() for _ in range(3)]  # shared over processes, which hand on whole numbers
    for number in range(images):
        parts[number % 3].add(true + 1000, true)
    whole = DepthSums()
    whole.merge(json.loads(json.dumps([part.sums for part in parts])))
    assert whole.sums == sums.sums


def figures_of(rank, folder):
    """Figures of two images in one process, of one each in two."""
    join(choose_compute("cpu", "fp32"), 120)
    tally, logs = Depth(["depth"], centre=2000.0).start_tally(), torch.tensor([3000.0, 1e6]).div(2000).log()
    own = [rank] if is_distributed() else [0, 1]
    tally.add(
        logs[own, None, None, None].expand(-1, 1, 4, 4), torch.full((len(own), 480, 640), 2000.0), torch.tensor(own)
    )
    return dict(tally.gather().finish().figures)


def test_processes_add_up_what_no_64_bits_hold(tmp_path):
    one = figures_of(0, tmp_path)
    assert one["rmse"] == pytest.approx(math.sqrt((1000**2 + 998000**2) / 2), rel=1e-5)
    first, second = in_two_processes(figures_of, tmp_path)
    assert first["given"] == second["given"] == one


def test_one_pixel_as_far_as_answers_go_is_exact():
    sums = DepthSums()
    sums.add(torch.tensor([[1e12]]), torch.tensor([[1e-3]]))
    assert sums.figures()["rmse"] == pytest.approx(1e12, rel=1e-6)
    assert sums.figures()["abs_rel"] == pytest.approx(1e15, rel=1e-6)


def test_whole_numbers_of_any_size_are_summed_without_rounding():
    generator = torch.Generator().manual_seed(0)
    powers = torch.randint(0, 300, (500,), generator=generator)
    values = (torch.rand(500, generator=generator, dtype=torch.float64) * powers.double().exp2()).round()
    wanted = sum(int(value) for value in values.tolist())
    assert sum_exactly(values) == wanted == sum_exactly(values.flip(0))
    assert sum_exactly(torch.zeros(0, dtype=torch.float64)) == 0
    assert sum_exactly(torch.full((5,), 2.0**53 - 1, dtype=torch.float64)) == 5 * (2**53 - 1)
    assert UNIT == 2**20  # a power of two, by which nothing is rounded


def test_the_loss_is_its_equation_written_out():
    found, true = draw(7)
    true[1] = 0
    logs = found.log().requires_grad_()
    gaps = [a - math.log(t) for a, t in zip(logs[0].flatten().tolist(), true[0].flatten().tolist(), strict=True) if t]
    mean = sum(gaps) / len(gaps)
    wanted = (sum(gap**2 for gap in gaps) / len(gaps) - 0.5 * mean**2) / 2  # the second image adds 0
    loss = scale_invariant_loss(logs, true)
    assert abs(loss.item() - wanted) < 1e-6
    loss.backward()
    assert logs.grad is not None
    assert logs.grad.isfinite().all()
    assert not logs.grad[true == 0].any()


def test_half_of_a_wrong_scale_is_forgiven():
    true = torch.full((1, 4, 4), 2.0)
    assert abs(scale_invariant_loss(true.log() + 0.4, true).item() - 0.5 * 0.4**2) < 1e-6
    assert abs(scale_invariant_loss(true.log() + 0.4, true, balance=1.0).item()) < 1e-6
