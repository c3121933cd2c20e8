"""Heads that are replaced or folded, and what is in training mode while the backbone is frozen."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.block_inputs import snapshot
from support.families import WITH_BLOCKS, attach, images, randomise_tuned, tiny, with_drop_paths
from support.matrix import every_case, parametrize_where_fit
from timm.layers import DropPath
from torch import nn

import vision_peft as vp
from vision_peft.tuning import graft
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.blocks import blocks

every_family = pytest.mark.parametrize("family", WITH_BLOCKS)
ADAPTFORMER = vp.AdaptFormer(bottleneck=4, init="trunc_normal")


@every_family
@pytest.mark.parametrize("kind", ["linear", "batchnorm_linear"])
def test_detach_gives_the_replaced_head_back(family, kind):
    model: Any = tiny(family)
    old = {name: model.get_submodule(name) for name in classifier_names(model)}
    x = images(model)
    expected = model(x)
    vp.replace_head(model, kind, 3)
    vp.attach(model, vp.LoRA(rank=2))
    assert model(x).shape == (2, 3)
    assert model.num_classes == 3
    vp.replace_head(model, kind, 4)
    assert model(x).shape == (2, 4)
    vp.detach(model)
    assert {name: model.get_submodule(name) for name in classifier_names(model)} == old
    assert model.num_classes == 5
    assert torch.equal(model(x), expected)


@every_family
def test_a_head_put_on_a_headless_backbone_goes_again(family):
    model: Any = tiny(family)
    model.reset_classifier(0)
    x = images(model)
    expected, before = model(x), snapshot(model)
    vp.attach(vp.replace_head(model, "batchnorm_linear", 3), vp.LoRA(rank=2))
    assert model(x).shape == (2, 3)
    vp.detach(model)
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


def test_the_batchnorm_head_is_the_one_of_main_image_py():
    torch.manual_seed(0)
    model: Any = vp.replace_head(tiny("vit"), "batchnorm_linear", 2000)
    batchnorm, linear = model.head
    assert isinstance(batchnorm, nn.BatchNorm1d)
    assert (batchnorm.affine, batchnorm.eps, batchnorm.num_features) == (False, 1e-6, 32)
    assert (linear.in_features, linear.out_features) == (32, 2000)
    assert abs(linear.weight.std().item() - 0.01) < 2e-4  # 64,000 draws: the standard error is 3e-5
    model.train()
    features = 3 * torch.randn(8, 32) + 1
    scaled = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(model.head(features), scaled @ linear.weight.T + linear.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "classes", "reason"), [("mlp", 3, "head must be one of"), ("linear", 0, "at least 1")]
)
def test_an_impossible_head_is_refused(kind, classes, reason):
    model = tiny("vit")
    before = snapshot(model)
    with pytest.raises(ValueError, match=reason):
        vp.replace_head(model, kind, classes)
    assert snapshot(model) == before


@every_family
def test_merge_folds_a_batchnorm_head_into_the_linear_of_a_plain_timm_model(family):
    model = vp.replace_head(tiny(family), "batchnorm_linear", 5)
    vp.attach(model, vp.LoRA(rank=2))
    randomise_tuned(model)
    for name in classifier_names(model):
        batchnorm: Any = model.get_submodule(name)[0]  # pyright: ignore[reportIndexIssue]
        nn.init.normal_(batchnorm.running_mean)
        nn.init.uniform_(batchnorm.running_var, 0.5, 2.0)
    x = images(model)
    expected = model.eval()(x)
    vp.merge(model)
    plain = WITH_BLOCKS[family].make()
    plain.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(plain.eval()(x), expected, rtol=1e-5, atol=2e-5)
    assert not list(graft.grafts(model))


def test_merge_names_every_method_that_cannot_fold_and_changes_nothing():
    model = tiny("vit")
    for method in (vp.LoRA(rank=2), ADAPTFORMER, vp.VPT(tokens=2)):
        vp.attach(model, method)
    randomise_tuned(model)
    x, before = images(model), snapshot(model)
    expected = model(x)
    with pytest.raises(ValueError, match=r"AdaptFormerBlock, VPTAttention is not a constant update of the weights"):
        vp.merge(model)
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


def test_a_merged_model_can_be_attached_to_again():
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2))
    randomise_tuned(model)
    vp.merge(model)
    x = images(model)
    expected = model(x)
    vp.attach(model, vp.LoRA(rank=2))
    torch.testing.assert_close(model(x), expected)


@every_family
def test_in_training_the_frozen_backbone_is_deterministic_by_default(family):
    model = with_drop_paths(tiny(family))
    vp.attach(model, vp.LoRA(rank=2))
    x = images(model, batch=8)
    vp.train_mode(model)
    assert torch.equal(model(x), model(x))
    vp.train_mode(model, frozen="train")
    assert not torch.equal(model(x), model(x))


@parametrize_where_fit(
    [vp.AdaptFormer(bottleneck=8, dropout=0.5, init="trunc_normal", scale=1.0), vp.VPT(tokens=3, dropout=0.5)]
)
def test_the_methods_own_dropout_is_on_in_training_and_off_in_eval(family, method):
    model = vp.attach(tiny(family), method)
    x = images(model)
    vp.train_mode(model)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_the_batchnorm_head_counts_its_statistics_in_training():
    model: Any = vp.attach(vp.replace_head(tiny("vit"), "batchnorm_linear", 3), vp.LinearProbe())
    vp.train_mode(model)
    assert model.head[0].training
    model(images(model, batch=4))
    assert model.head[0].num_batches_tracked == 1
    assert not any(module.training for block in blocks(model) for module in block.modules())


@every_family
def test_full_fine_tuning_puts_every_module_in_training_mode(family):
    model = vp.train_mode(vp.attach(tiny(family), vp.FullFineTune()))
    kept = {module for module in model.modules() if isinstance(module, nn.BatchNorm2d)}  # running statistics stay
    assert all(module.training != (module in kept) for module in model.modules())


def test_full_fine_tuning_of_a_headless_backbone_trains_it_all_too():
    model: Any = tiny("vit")
    model.reset_classifier(0)
    vp.train_mode(vp.attach(model, vp.FullFineTune()))
    assert all(module.training for block in blocks(model) for module in block.modules())


def test_an_unfrozen_block_is_in_training_mode_beside_frozen_ones():
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2))
    first, last = blocks(model)
    last.requires_grad_(True)
    vp.train_mode(model)
    assert all(module.training for module in last.modules())
    assert not any(m.training for name, m in first.named_modules() if "lora" not in name)


def test_a_mode_of_another_name_is_refused():
    with pytest.raises(ValueError, match="frozen must be one of 'eval', 'train'; got 'off'"):
        vp.train_mode(tiny("vit"), frozen="off")


@every_case
def test_a_model_in_eval_mode_stays_deterministic_when_attached_to(family, method):
    model = attach((with_drop_paths(tiny(family)) if family in WITH_BLOCKS else tiny(family)).eval(), method)
    x = images(model)
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(x), model(x))


# L7: every trainer calls model.train()
@pytest.fixture
def alone(tmp_path: Path):
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def frozen_drops(model: nn.Module) -> set[bool]:
    """The modes of the drop-path layers in the frozen blocks."""
    return {m.training for m in model.modules() if isinstance(m, DropPath)}


@every_family
def test_train_after_attach_is_train_mode(family):
    model = vp.attach(with_drop_paths(tiny(family)), ADAPTFORMER)
    expected = [m.training for m in vp.train_mode(model).modules()]
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    assert model.train() is model
    assert [module.training for module in model.modules()] == expected
    assert frozen_drops(model) == {False}


def test_train_follows_the_mode_that_was_chosen_for_frozen_parts():
    model = vp.attach(with_drop_paths(tiny("vit")), ADAPTFORMER)
    vp.train_mode(model, frozen="train")
    assert frozen_drops(model.eval().train()) == {True}
    vp.train_mode(model, frozen="eval")
    assert frozen_drops(model.eval().train()) == {False}


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: vp.unmerge(vp.merge(m, reversible=True))],
    ids=["deepcopy", "pickle", "unmerge"],
)
def test_train_stays_safe_on_copies_and_does_not_touch_the_original(copied):
    model: Any = vp.attach(with_drop_paths(tiny("vit")), vp.LoRA(rank=2))
    other: Any = copied(model)
    assert frozen_drops(other.train()) == {False}
    assert other.blocks[0].attn.qkv.lora.training
    if other is not model:
        assert not model.blocks[0].attn.qkv.lora.training


@pytest.mark.parametrize("wrapper", ["ddp", "compile", "parent"])
def test_train_of_a_wrapper_is_safe_too(wrapper, alone):
    model = vp.attach(with_drop_paths(tiny("vit")), vp.LoRA(rank=2))
    wrapped: Any = {
        "ddp": nn.parallel.DistributedDataParallel,
        "compile": lambda m: torch.compile(m, backend="eager"),
        "parent": lambda m: nn.Sequential(m),
    }[wrapper](model)
    wrapped.train()
    assert frozen_drops(model) == {False}
    assert torch.equal(wrapped(images(model)), wrapped(images(model)))
    wrapped.eval()
    assert not any(module.training for module in model.modules())


def test_detach_and_merge_give_timms_own_train_back():
    for undo in (vp.detach, vp.merge):
        model = vp.attach(with_drop_paths(tiny("vit")), vp.LoRA(rank=2))
        undo(model)
        assert "train" not in vars(model)
        assert frozen_drops(model.train()) == {True}


def test_with_a_replaced_head_alone_train_is_timms():
    model = vp.replace_head(with_drop_paths(tiny("vit")), "linear", 3)
    assert all(module.training for module in model.train().modules())
