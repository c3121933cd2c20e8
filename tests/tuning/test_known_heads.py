"""Heads that ``replace_head`` makes are known by what they are; a user's own is in no adapter, nor merged model."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.families import ALL, images, randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning.known_heads import find_head_kind, head_kind

KINDS = [
    "linear",
    "batchnorm_linear",
    "bi_linear",
    "bi_linear_packed",
    "class_mean",
    "mlp-2",
    "mlp-3",
    "attentive queries=2",
    "attentive_pooler depth=2 heads=2",
    "seg_linear",
    "seg_multi layers=2",
    "seg_upernet layers=2 channels=8",
    "seg_pup steps=2 channels=8",
    "knn images=12 k=3",
]
DIM, CLASSES = 32, 5


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 10 * F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.fc(x)


def patched(layer: Any) -> Any:
    layer.forward = lambda x: nn.Linear.forward(layer, x).tanh()
    return layer


def linear(outputs: int = CLASSES, bias: bool = True) -> nn.Linear:
    return nn.Linear(DIM, outputs, bias=bias)


def norm(**settings: Any) -> nn.Module:
    return nn.BatchNorm1d(DIM, **settings)


OWN = {
    "another activation": lambda: nn.Sequential(linear(DIM), nn.GELU(), linear()),
    "another class of linear": lambda: Cosine(DIM, CLASSES),
    "another linear at the end": lambda: nn.Sequential(linear(DIM), nn.ReLU(), Cosine(DIM, CLASSES)),
    "a forward of its own": lambda: patched(linear()),
    "another eps": lambda: nn.Sequential(norm(affine=False), linear()),
    "affine": lambda: nn.Sequential(norm(eps=1e-6), linear()),
    "no statistics": lambda: nn.Sequential(norm(affine=False, eps=1e-6, track_running_stats=False), linear()),
    "more behind the norm": lambda: nn.Sequential(norm(affine=False, eps=1e-6), linear(DIM), nn.ReLU(), linear()),
    "layer norm": lambda: nn.Sequential(nn.LayerNorm(DIM), linear()),
    "dropout": lambda: nn.Sequential(nn.Dropout(0.5), linear()),
    "two linear": lambda: nn.Sequential(linear(DIM), linear()),
    "narrow": lambda: nn.Sequential(nn.Linear(DIM, 8), nn.ReLU(), nn.Linear(8, CLASSES)),
    "no bias": lambda: linear(bias=False),
    "other classes": lambda: linear(7),
    "one in a list": lambda: nn.Sequential(linear()),
    "a class of its own": Scaled,
    "nothing": nn.Identity,
}
MERGED = ("another eps", "no bias", "other classes", "nothing")  # what a plain model can hold, or says of itself
every_own = pytest.mark.parametrize("name", OWN)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("classes", [0, CLASSES])
def test_the_head_that_timm_makes_is_linear(family, classes):
    model: Any = tiny(family)
    if classes == 0:
        model.reset_classifier(0)
    assert head_kind(model) == "linear"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["vit", "swin", "deit_distilled"])
def test_a_head_of_every_kind_is_known_also_on_a_copy_that_was_converted_and_tuned(family, kind):
    if kind == "class_mean" and family == "swin":
        return
    model: Any = tiny(family)
    vp.replace_head(model, kind, CLASSES)
    vp.attach(model, vp.LoRA(rank=2))
    for each in (model, copy.deepcopy(model).double().train(), copy.deepcopy(model).to("meta")):
        assert head_kind(each) == kind


def test_relu_in_place_is_relu():
    model: Any = tiny("vit")
    model.head = nn.Sequential(linear(DIM), nn.ReLU(inplace=True), linear())
    assert head_kind(model) == "mlp-2"


def own_head(name: str, method: vp.Method | None = None) -> Any:
    model: Any = tiny("vit")
    if method is not None:
        vp.attach(model, method)
    model.head = OWN[name]()
    return model


@every_own
@pytest.mark.parametrize("first", [True, False])
def test_a_head_of_the_users_own_is_refused_with_the_way_out_which_works(name, first, tmp_path):
    model = own_head(name, None if first else vp.LoRA(rank=2))
    if first:
        vp.attach(model, vp.LoRA(rank=2))
    randomise_tuned(model)
    with pytest.raises(ValueError, match=r"of your own making, .*vp\.replace_head .*vp\.tuned_state_dict"):
        vp.save_adapter(model, tmp_path)
    assert not list(tmp_path.iterdir())
    twin = own_head(name, vp.LoRA(rank=2))
    vp.load_tuned(twin, vp.tuned_state_dict(model))
    x = images(model)
    assert torch.equal(twin.eval()(x), model.eval()(x))


@every_own
def test_a_merged_model_computes_the_same_or_is_refused(name):
    model = own_head(name, vp.LoRA(rank=2))
    randomise_tuned(model)
    expected = model.eval()(x := images(model))
    if name in MERGED:
        vp.merge(model)
    else:
        with pytest.raises(ValueError, match=r"cannot merge (a head of your own|an MLP head)"):
            vp.merge(model)
    torch.testing.assert_close(model.eval()(x), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_puts_its_head_in_the_place_of_one_that_only_looks_alike(tmp_path):
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2))
    vp.replace_head(model, "mlp-2", CLASSES)
    randomise_tuned(model)
    vp.save_adapter(model, tmp_path)
    other = own_head("another activation")
    assert find_head_kind(other) is None
    x = images(model)
    assert torch.equal(vp.load_adapter(other, tmp_path).eval()(x), model.eval()(x))


def test_two_heads_of_different_kinds_are_of_none():
    model: Any = tiny("deit_distilled")
    assert head_kind(model) == "linear"
    model.head_dist = nn.Sequential(linear(DIM), nn.ReLU(), linear())
    assert find_head_kind(model) is None
