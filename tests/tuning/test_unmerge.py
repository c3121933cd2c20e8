"""The way back from a reversible merge: exact, for whatever merges, and refused where it would lose something."""

import copy
import pickle
from typing import Any

import pytest
import torch
from families import images, randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning import graft, record
from vision_peft.tuning.timm_blocks import blocks

STACKS = [
    [vp.LoRA(rank=2)],
    [vp.LoRA(rank=2, dora=True, targets=("qkv", "fc1"))],
    [vp.SSF(), vp.RepAdapter(bottleneck=4, groups=1)],
    [vp.FacT(rank=4), vp.LoRA(rank=2, targets=("proj", "proj_output")), vp.BitFit()],
    [vp.BitFit()],
]
every_stack = pytest.mark.parametrize("methods", STACKS, ids=repr)


def tuned(methods: list[vp.Method], family: str = "vit", head: str | None = None) -> Any:
    model = tiny(family)
    if head is not None:
        vp.replace_head(model, head, 5)
    for method in methods:
        vp.attach(model, method)
    randomise_tuned(model)
    return model


def bits(model: nn.Module) -> dict[str, bytes]:
    """The bytes of every tensor: torch.equal takes 0.0 for -0.0."""
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "state": bits(model),
        "parameters": {name: (id(p), p.requires_grad) for name, p in model.named_parameters()},
        "modules": {name: (id(module), type(module), module.training) for name, module in model.named_modules()},
        "attributes": {name: set(vars(module)) for name, module in model.named_modules()},
        "record": record.find(model),
        "counts": vp.count_parameters(model),
        "num_classes": model.num_classes,
    }


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    torch.manual_seed(0)
    model(x).square().sum().backward()
    optimizer.step()


@every_stack
@pytest.mark.parametrize("family", ["vit", "swin", "beit", "rope_gqa"])
def test_everything_is_what_it_was_before_the_merge(methods, family):
    model = tuned(methods, family)
    x = images(model)
    expected, before = model(x), snapshot(model)
    assert vp.merge(model, reversible=True) is model
    assert snapshot(model) != before
    assert not list(graft.grafts(model))
    assert record.find(model) is None
    assert vp.unmerge(model) is model
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


@every_stack
def test_training_that_was_interrupted_by_a_merge_goes_on_as_if_it_had_not_been(methods):
    models = [tuned(methods), tuned(methods)]
    x = images(models[0], batch=4)
    for interrupted, model in enumerate(models):
        vp.train_mode(model)
        optimizer = torch.optim.AdamW([p for _, p in vp.tuned_parameters(model)], lr=1e-2)
        one_step(model, optimizer, x)
        if interrupted:
            vp.merge(model, reversible=True).eval()(x)
            vp.unmerge(model)
        one_step(model, optimizer, x)
    assert bits(models[0]) == bits(models[1])


def test_merging_and_coming_back_again_and_again_never_drifts():
    model = tuned([vp.LoRA(rank=2)])
    before = snapshot(model)
    for _ in range(3):
        vp.unmerge(vp.merge(model, reversible=True))
        assert snapshot(model) == before


@pytest.mark.parametrize("family", ["vit", "deit_distilled", "swin"])
def test_a_head_that_was_folded_comes_back_and_behind_it_the_one_that_it_replaced(family):
    model = tuned([vp.LoRA(rank=2)], family, head="batchnorm_linear")
    vp.train_mode(model)(images(model, batch=4))  # moves BatchNorm's statistics
    x = images(model)
    expected, before = model.eval()(x), snapshot(model)
    vp.unmerge(vp.merge(model, reversible=True))
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)
    assert torch.equal(vp.detach(model)(x), tiny(family)(x))


def test_a_saved_adapter_of_the_model_that_came_back_is_the_one_saved_before(tmp_path):
    model = tuned([vp.LoRA(rank=2), vp.SSF()])
    vp.save_adapter(model, tmp_path / "before")
    vp.unmerge(vp.merge(model, reversible=True))
    vp.save_adapter(model, tmp_path / "after")
    for name in ("adapter.json", "adapter.safetensors"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    vp.load_tuned(model, vp.tuned_state_dict(model))
    assert torch.equal(vp.load_adapter(tiny("vit"), tmp_path / "after")(images(model)), model(images(model)))


def test_requires_grad_of_the_merged_model_is_that_of_the_backbone_and_comes_back():
    model = tiny("vit")
    blocks(model)[1].requires_grad_(False)
    plain = {name: p.requires_grad for name, p in model.named_parameters()}
    vp.attach(model, vp.LoRA(rank=2))
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    vp.merge(model, reversible=True)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == plain
    vp.unmerge(model)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags


def test_a_final_merge_and_a_plain_model_remember_nothing():
    for model in (vp.merge(tuned([vp.LoRA(rank=2)])), vp.merge(tiny("vit"), reversible=True)):
        assert record.find_merged(model) is None
        with pytest.raises(ValueError, match=r"nothing to unmerge: wanted a model merged by vp.merge\(model, rever"):
            vp.unmerge(model)


def test_only_weights_that_changed_are_remembered():
    model = vp.merge(tuned([vp.LoRA(rank=2, targets=("fc1",))]), reversible=True)
    merged: Any = record.find_merged(model)
    assert list(merged.weights) == [f"blocks.{i}.mlp.fc1.weight" for i in range(2)]


def negative(model: Any) -> None:
    model.head.weight.data.neg_()  # no version counter sees .data


def swapped_rows(model: Any) -> None:
    model.blocks[0].attn.proj.weight.data = model.blocks[0].attn.proj.weight.data.flip(0)


def other_type(model: Any) -> None:
    model.to(torch.float64)


def another_head(model: Any) -> None:
    model.reset_classifier(7)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (negative, "head.weight"),
        (swapped_rows, r"blocks\.0\.attn\.proj\.weight"),
        (other_type, r"cls_token, pos_embed, .* and \d+ more"),
        (another_head, "head.weight, head.bias"),
    ],
)
def test_weights_that_changed_since_the_merge_are_named_and_nothing_is_lost(change, name):
    model = vp.merge(tuned([vp.LoRA(rank=2)]), reversible=True)
    change(model)
    before = bits(model)
    with pytest.raises(ValueError, match=f"cannot unmerge: {name} changed since the merge"):
        vp.unmerge(model)
    assert bits(model) == before
    assert record.find(model) is None


def test_a_merged_model_that_trained_is_refused_until_its_weights_are_loaded_again():
    model = tuned([vp.LoRA(rank=2)])
    x = images(model)
    expected = model(x)
    vp.merge(model, reversible=True)
    merged = copy.deepcopy(model.state_dict())
    one_step(model, torch.optim.SGD(model.parameters(), lr=1e-2), x)
    with pytest.raises(ValueError, match="changed since the merge"):
        vp.unmerge(model)
    model.load_state_dict(merged)
    assert torch.equal(vp.unmerge(model)(x), expected)


@pytest.mark.parametrize(
    "tune",
    [
        lambda model, folder: vp.attach(model, vp.LoRA(rank=2)),
        lambda model, folder: vp.replace_head(model, "linear", 5),
        lambda model, folder: vp.load_adapter(model, folder, allow_backbone_mismatch=True),
    ],
    ids=["attach", "replace_head", "load_adapter"],
)
def test_tuning_on_is_refused_until_the_way_back_is_taken_or_given_up(tune, tmp_path):
    model = tuned([vp.LoRA(rank=2)])
    vp.save_adapter(model, tmp_path)
    vp.merge(model, reversible=True)
    before = bits(model)
    with pytest.raises(ValueError, match=r"take it with vp.unmerge\(model\), or give it up with vp.merge\(model\)"):
        tune(model, tmp_path)
    assert bits(model) == before
    vp.unmerge(copy.deepcopy(model))
    tune(vp.merge(model), tmp_path)
    with pytest.raises(ValueError, match="nothing to unmerge"):
        vp.unmerge(model)


def test_merging_reversibly_twice_and_detaching_keep_the_way_back():
    model = tuned([vp.LoRA(rank=2)])
    before = snapshot(model)
    vp.merge(model, reversible=True)
    vp.detach(vp.merge(model, reversible=True))
    assert snapshot(vp.unmerge(model)) == before


def test_a_merge_that_is_refused_remembers_nothing():
    model = tuned([vp.LoRA(rank=2), vp.AdaptFormer(bottleneck=4)])
    before = snapshot(model)
    with pytest.raises(ValueError, match="cannot merge LoRA, AdaptFormer"):
        vp.merge(model, reversible=True)
    assert snapshot(model) == before
    with pytest.raises(ValueError, match="nothing to unmerge"):
        vp.unmerge(model)


@every_stack
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_merged_model_comes_back_by_itself(methods, copied):
    model = tuned(methods)
    x, state = images(model), bits(model)
    expected = model(x)
    vp.merge(model, reversible=True)
    merged = model(x)
    twin = copied(model)
    assert torch.equal(twin(x), merged)
    assert torch.equal(vp.unmerge(twin)(x), expected)
    assert bits(twin) == state
    with torch.no_grad():
        for _, parameter in vp.tuned_parameters(twin):
            parameter.add_(1)
    assert torch.equal(model(x), merged)
    assert torch.equal(vp.unmerge(model)(x), expected)


def test_modes_are_those_before_the_merge():
    model = vp.train_mode(tuned([vp.LoRA(rank=2, dropout=0.5)]))
    modes = {name: module.training for name, module in model.named_modules()}
    assert len(set(modes.values())) == 2
    vp.merge(model, reversible=True).eval()
    vp.unmerge(model)
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_negative_zeros_come_back_too():
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2, targets=("fc1",)))  # B = 0: W + 0 is W but for the sign of zeros
    nn.init.constant_(blocks(model)[0].mlp.fc1.weight, -0.0)
    before = bits(model)
    vp.merge(model, reversible=True)
    assert "-" not in str(blocks(model)[0].mlp.fc1.weight[0, 0].item())
    vp.unmerge(model)
    assert bits(model) == before


def test_a_low_precision_model_comes_back_bit_for_bit():
    model = tiny("vit").to(torch.bfloat16)
    vp.attach(model, vp.LoRA(rank=2))
    randomise_tuned(model)
    x = images(model).to(torch.bfloat16)
    expected = model(x)
    vp.unmerge(vp.merge(model, reversible=True))
    assert torch.equal(model(x), expected)


def test_without_weights_a_merge_on_the_meta_device_comes_back_to_the_same_names():
    model = vp.attach(tiny("vit").to("meta"), vp.LoRA(rank=2))
    before = list(model.state_dict())
    vp.unmerge(vp.merge(model, reversible=True))
    assert list(model.state_dict()) == before


def test_a_wrapped_model_is_refused():
    model = vp.merge(tuned([vp.LoRA(rank=2)]), reversible=True)
    with pytest.raises(ValueError, match=r"pass model\.module"):
        vp.unmerge(nn.DataParallel(model))
    with pytest.raises(ValueError, match=r"pass model\._orig_mod"):
        vp.unmerge(torch.compile(model, backend="eager"))  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_that_moved_to_another_device_since_comes_back_there():
    model = tuned([vp.SSF(), vp.LoRA(rank=2)], head="batchnorm_linear")
    before = bits(model)
    vp.unmerge(vp.merge(model, reversible=True).cuda())
    assert all(p.is_cuda for p in model.parameters())
    assert bits(model.cpu()) == before
