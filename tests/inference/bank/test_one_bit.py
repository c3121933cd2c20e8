"""Two values and a bit a number: the best two of all, exact where there are only two, an eighth of a byte each."""

import pytest
import torch

from vision_peft.inference.bank.one_bit import encode


def best_two(values):
    """Try every cut of the sorted values: the definition."""
    ordered = values.double().sort().values
    cuts = [(ordered[:cut], ordered[cut:]) for cut in range(1, len(ordered))]
    return min(float(((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum()) for low, high in cuts)


@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (16, 8), (2, 3, 7)])
def test_the_two_values_are_the_best_of_all(shape):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) ** 3
    coded = encode(tensor)
    decoded = coded.decode()
    assert (decoded.shape, decoded.dtype, decoded.unique().numel()) == (tensor.shape, tensor.dtype, 2)
    assert float((tensor - decoded).double().square().sum()) == pytest.approx(best_two(tensor.flatten()), rel=1e-5)
    assert coded.nbytes == -(-tensor.numel() // 8) + 8


@pytest.mark.parametrize("tensor", [torch.tensor([[3.0, -1.0], [3.0, 3.0]]), torch.zeros(2, 3), torch.empty(0, 4)])
def test_two_values_or_fewer_are_kept_as_they_are(tensor):
    assert torch.equal(encode(tensor).decode(), tensor)


def test_half_precision_stays_half_precision():
    assert encode(torch.randn(4, 4).bfloat16()).decode().dtype == torch.bfloat16
