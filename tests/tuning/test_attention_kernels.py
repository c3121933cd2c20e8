"""No method takes attention off torch's fused kernels but for a reason that stands here."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.families import attach, images, tiny
from support.matrix import every_compiled_case
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import vision_peft as vp
from vision_peft.tuning.attention_kernels import AttentionCall, find_kernels, list_attention

TRAINED_BIAS = "a bias that gets a gradient"
# What timm's models compute without a fused kernel, whatever is attached: those of the CPU take four axes, a bias of
# two or four, and give it no gradient.
OF_TIMM = {
    "beit_shared_bias": {"a bias of 3 axes"},
    "maxvit_tf": {"a bias of 3 axes"},
    "hiera": {"queries of 5 axes"},
    "hiera_pooled": {"queries of 5 axes"},
    "sam": {TRAINED_BIAS},  # it is a product of the queries
    # it comes out of a small network
    "relpos": {TRAINED_BIAS},
    "relpos_shared": {TRAINED_BIAS},
    "relpos_post": {TRAINED_BIAS},
}
WRITTEN_OUT = {"swin", "swin_v2", "swin_v2_cr", "mvitv2", "mvitv2_class_token", "cait", "xcit"}  # by timm, as a softmax


def list_calls(model: Any) -> list[AttentionCall]:
    return list_attention(model, images(model))


# Of every method one family and of every family one method by default, as of what is compiled.
@every_compiled_case
def test_no_method_leaves_the_fused_kernels(method: vp.Method, family: str) -> None:
    calls = list_calls(attach(tiny(family), method).train())
    trains_tables = isinstance(method, vp.FullFineTune | vp.PartialFineTune)
    allowed = OF_TIMM.get(family, set()) | ({TRAINED_BIAS} if trains_tables else set())
    assert {call.reason for call in calls if call.kernel == "math"} <= allowed
    assert {call.kernel for call in calls} <= {"flash", "math", *(["softmax"] if family in WRITTEN_OUT else [])}


@pytest.mark.parametrize("family", OF_TIMM)
def test_what_timm_computes_without_a_fused_kernel_is_told(family: str) -> None:
    model = tiny(family)
    model(images(model)).sum().backward()
    assert {call.reason for call in list_calls(model) if call.kernel == "math"} == OF_TIMM[family]


def test_a_vit_has_one_fused_attention_a_block_and_swin_a_softmax() -> None:
    assert list_calls(tiny("vit")) == [AttentionCall("flash")] * 2
    assert list_calls(tiny("swin")) == [AttentionCall("softmax")] * 4
    assert find_kernels(tiny("hiera"), images(tiny("hiera"))) == {"flash", "math"}
    assert find_kernels(tiny("resnet"), images(tiny("resnet"))) == set()


class Given(nn.Module):
    """Attention of what it is built with."""

    def __init__(self, *shape: int, v: int | None = None, **settings: Any) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.randn(shape))
        self.v = nn.Parameter(torch.randn(*shape[:-1], v or shape[-1]))
        self.settings = settings

    def forward(self, _: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.q, self.q, self.v, **self.settings)


FUSED = partial(Given, 2, 2, 5, 8)
MATH = {
    TRAINED_BIAS: partial(FUSED, attn_mask=nn.Parameter(torch.zeros(2, 2, 5, 5))),
    "a bias of 3 axes": partial(FUSED, attn_mask=torch.zeros(2, 5, 5)),
    "queries of 5 axes": partial(Given, 2, 2, 2, 5, 8),
    "dropout of scores": partial(FUSED, dropout_p=0.1),
    "values of another width than keys": partial(FUSED, v=4),
}


def profiled(model: nn.Module) -> set[str]:
    """The kernels by torch's own profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        model(torch.zeros(1))
    return {event.key for event in seen.key_averages() if "_scaled_dot_product" in event.key}


@pytest.mark.parametrize("reason", MATH)
def test_the_reason_for_the_slow_way_is_told(reason: str) -> None:
    model = MATH[reason]()
    assert list_attention(model, torch.zeros(1)) == [AttentionCall("math", reason)]
    assert profiled(model) == {"aten::_scaled_dot_product_attention_math"}


@pytest.mark.parametrize("bias", [None, torch.zeros(5, 5), torch.zeros(2, 2, 5, 5)])
def test_the_kernel_is_the_one_that_the_profiler_sees(bias: Tensor | None) -> None:
    model = FUSED(attn_mask=bias)
    assert list_attention(model, torch.zeros(1)) == [AttentionCall("flash")]
    assert profiled(model) == {"aten::_scaled_dot_product_flash_attention_for_cpu"}


def test_without_gradients_a_bias_of_parameters_is_no_reason() -> None:
    model = MATH[TRAINED_BIAS]()
    with torch.no_grad():
        kernels = [call.kernel for call in list_attention(model, torch.zeros(1))]
        seen = profiled(model)
    assert kernels == (["math"] if "aten::_scaled_dot_product_attention_math" in seen else ["flash"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_gpu_takes_a_fused_kernel_too(dtype: torch.dtype) -> None:
    model = tiny("vit").to("cuda")
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        assert find_kernels(model, images(model).to("cuda")) <= {"flash", "efficient", "cudnn"}
