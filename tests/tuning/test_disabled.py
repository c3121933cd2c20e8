"""vp.disabled: the frozen model's own function inside, the tuned model bit for bit afterwards."""

import copy
import pickle
from typing import Any

import pytest
import torch
from support.families import attach, images, randomise_tuned, tiny
from support.matrix import fits
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning import graft, record

FEW = ["vit", "dinov3", "eva02_base", "beit", "swin", "frames"]
METHODS = [kind() for kind in vp.METHODS.values() if not kind().brings_head]
FITTING = [(method, family) for method in METHODS for family in FEW if fits(method, family)]
MANY_IN_PLACE = (
    "full",
    "partial",
    "bitfit",
    "norm_tuning",
)  # in models as small as these; on a ViT-B only full is many


def tuned(family: str, *methods: vp.Method) -> Any:
    model = tiny(family)
    for method in methods:
        attach(model, method)
    randomise_tuned(model)
    return model


def plain_with_its_head(model: Any, family: str) -> Any:
    plain = tiny(family)
    vp.load_tuned(plain, {n: t for n, t in vp.tuned_state_dict(model).items() if n.startswith("head")})
    return plain


def same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(state) == list(other) and all(torch.equal(tensor, other[name]) for name, tensor in state.items())


@torch.no_grad()  # whether BEiT's position bias asks for a gradient decides between two kernels, which round apart
@pytest.mark.parametrize(("method", "family"), FITTING, ids=lambda value: getattr(value, "name", value))
def test_inside_is_the_plain_backbone_and_afterwards_the_tuned_model(method, family):
    model = vp.train_mode(tuned(family, method))
    x, plain = images(model), plain_with_its_head(model, family)
    frozen = tiny(family).state_dict()
    model.eval()
    expected = model(x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names, kinds = list(vp.tuned_state_dict(model)), [type(module) for module in model.modules()]
    parameters = {name: id(p) for name, p in model.named_parameters()}
    with vp.disabled(model, original=frozen) as inside:
        assert inside is model
        assert torch.equal(model(x), plain(x))
        assert not list(graft.grafts(model))
        assert list(model.state_dict()) == list(plain.state_dict())
    assert torch.equal(model(x), expected)
    assert same(before, dict(model.state_dict()))
    assert (list(vp.tuned_state_dict(model)), [type(module) for module in model.modules()]) == (names, kinds)
    assert {name: id(p) for name, p in model.named_parameters()} == parameters


def test_a_few_values_trained_in_place_come_back_by_themselves():
    model = vp.attach(tiny("vit"), vp.NormTuning(norms="final"))
    vp.attach(model, vp.LoRA(rank=2))
    randomise_tuned(model)
    x, expected = images(model), model(images(model))
    with vp.disabled(model):
        assert torch.equal(model(x), plain_with_its_head_of(model)(x))
    assert torch.equal(model(x), expected)


def plain_with_its_head_of(disabled: Any) -> Any:
    plain = tiny("vit")
    plain.head.load_state_dict(disabled.head.state_dict())
    return plain


def test_many_values_trained_in_place_are_asked_for_by_name():
    model = tuned("vit", vp.FullFineTune())
    expected = model(images(model))
    with pytest.raises(ValueError, match=r"FullFineTune trained .*cls_token.*in place.*original=backbone\.state_dict"):
        with vp.disabled(model):
            pytest.fail("the block must not be entered")
    assert torch.equal(model(images(model)), expected)
    with vp.disabled(model, original=tiny("vit").state_dict()):
        assert torch.equal(model(images(model)), plain_with_its_head_of(model)(images(model)))
    assert torch.equal(model(images(model)), expected)


def test_original_values_of_another_shape_are_refused():
    model = tuned("vit", vp.FullFineTune())
    state = {**tiny("vit").state_dict(), "norm.bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"norm\.bias: wanted \(32,\), got \(3,\)"), vp.disabled(model, original=state):
        pytest.fail("the block must not be entered")


def test_gradients_and_optimisers_of_before_go_on():
    model = tuned("vit", vp.LoRA(rank=2), vp.NormTuning(norms="final"))
    twin = copy.deepcopy(model)
    x = images(model)
    for each in (model, twin):
        optimiser = torch.optim.AdamW([p for _, p in vp.tuned_parameters(each)], lr=0.1)
        for _ in range(2):
            loss = each(x).square().sum()
            if each is model:
                with vp.disabled(model), torch.no_grad():
                    model(x)
            loss.backward()  # the graph was made before the block
            optimiser.step()
            optimiser.zero_grad()
    assert same(dict(vp.tuned_state_dict(model)), dict(vp.tuned_state_dict(twin)))


def test_an_error_inside_leaves_a_tuned_model():
    model = tuned("vit", vp.LoRA(rank=2))
    expected = model(images(model))
    with pytest.raises(RuntimeError, match="stop"), vp.disabled(model):
        raise RuntimeError("stop")
    assert torch.equal(model(images(model)), expected)


def test_blocks_may_be_nested():
    model = tuned("vit", vp.LoRA(rank=2))
    x, expected = images(model), model(images(model))
    with vp.disabled(model):
        plain = model(x)
        with vp.disabled(model):
            assert torch.equal(model(x), plain)
        assert torch.equal(model(x), plain)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_without_gradients(context):
    model = tuned("vit", vp.AdaptFormer(bottleneck=4), vp.NormTuning(norms="final"))
    x, expected = images(model), model(images(model))
    with context(), vp.disabled(model):
        assert torch.equal(model(x), plain_with_its_head_of(model)(x))
    assert torch.equal(model(x), expected)
    model(x).sum().backward()


def test_of_a_copy_only_the_copy_is_disabled():
    model = tuned("vit", vp.VPT(tokens=2))
    twin, x = copy.deepcopy(model), images(model)
    expected = model(x)
    with vp.disabled(twin):
        assert torch.equal(model(x), expected)
        assert not torch.equal(twin(x), expected)
    assert torch.equal(twin(x), expected)


def test_a_copy_made_inside_is_a_plain_model():
    model = tuned("vit", vp.LoRA(rank=2))
    with vp.disabled(model):
        teacher, expected = copy.deepcopy(model), model(images(model))
    assert torch.equal(teacher(images(model)), expected)
    assert vp.count_parameters(vp.attach(teacher, vp.LoRA(rank=2))) == vp.count_parameters(model)


def test_a_pickled_model_can_still_be_disabled():
    model = pickle.loads(pickle.dumps(tuned("vit", vp.LoRA(rank=2), vp.NormTuning(norms="final"))))
    with vp.disabled(model):
        assert torch.equal(model(images(model)), plain_with_its_head_of(model)(images(model)))


def test_modes_are_afterwards_what_they_were():
    model = vp.train_mode(tuned("vit", vp.AdaptFormer(bottleneck=4)), "train")
    vp.train_mode(model)
    modes = [module.training for module in model.modules()]
    assert True in modes
    assert False in modes
    with vp.disabled(model):
        model.eval()
    assert [module.training for module in model.modules()] == modes
    assert [m.training for m in model.eval().train().modules()] == modes, "train() goes on leaving frozen parts alone"


def test_a_model_moved_inside_is_on_one_device_and_of_one_type_afterwards():
    model = tuned("vit", vp.LoRA(rank=2), vp.NormTuning(norms="final"))
    with vp.disabled(model):
        model.double()
    model.double()
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(images(model).double()).dtype == torch.float64


def test_a_compiled_model_is_recompiled_for_the_block():
    model = tuned("vit", vp.LoRA(rank=2))
    compiled, x = torch.compile(model, backend="eager"), images(model)
    expected = compiled(x)
    with vp.disabled(model):
        torch.testing.assert_close(compiled(x), plain_with_its_head_of(model)(x))
    torch.testing.assert_close(compiled(x), expected)


@pytest.mark.parametrize(
    "call",
    [vp.count_parameters, vp.tuned_state_dict, vp.merge, vp.detach, lambda m: vp.attach(m, vp.VPT(tokens=2))],
    ids=["count", "state", "merge", "detach", "attach"],
)
def test_inside_nothing_is_attached_counted_merged_or_saved(call):
    model = tuned("vit", vp.LoRA(rank=2))
    with vp.disabled(model), pytest.raises(ValueError, match=r"disabled by vp\.disabled: leave its with block first"):
        call(model)
    assert record.find(model) is not None


def test_a_plain_or_merged_model_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="nothing is attached to this model"), vp.disabled(tiny("vit")):
        pass
    model = vp.merge(tuned("vit", vp.LoRA(rank=2)), reversible=True)
    with pytest.raises(ValueError, match=r"was merged, its weights hold the update: .*vp\.unmerge"):
        with vp.disabled(model):
            pass
    merged = vp.merge(tuned("vit", vp.LoRA(rank=2)))
    with pytest.raises(ValueError, match="where it was merged, its weights hold the update"), vp.disabled(merged):
        pass


def test_a_wrapped_model_is_refused_with_what_to_pass_instead():
    with pytest.raises(ValueError, match=r"pass model\.module"):
        with vp.disabled(nn.DataParallel(tuned("vit", vp.LoRA(rank=2)))):
            pass
