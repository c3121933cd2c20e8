"""EVA: LoRA that starts from what its layers read, with ranks shared out by explained variance."""

import json
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from support.families import images, randomise_tuned, tiny
from timm.models import VisionTransformer
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning import graft, record


def method_of(model: Any) -> Any:
    found = record.find(model)
    assert found is not None
    return found.methods[-1]


def inputs_of(model: Any, name: str, x: Tensor) -> Tensor:
    """What a layer reads (tokens, in), centred, in double precision."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        model(x)
    handle.remove()
    return (seen[0] - seen[0].mean(0)).double()


def batches(family: str, count: int = 2) -> list[tuple[Tensor, Tensor]]:
    return [(images(tiny(family), batch=3, seed=seed), torch.arange(3)) for seed in range(count)]


def test_ranks_and_directions_are_those_of_hf_peft(shared):
    folder = shared / "golden" / "peft_eva_qkv_fc1"
    golden = safetensors.torch.load_file(folder / "golden.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=40, depth=2, num_heads=4, mlp_ratio=2.0, num_classes=5
    ).eval()
    model.load_state_dict({n.removeprefix("base/"): t for n, t in golden.items() if n.startswith("base/")})
    samples = [(batch.float(), torch.zeros(3)) for batch in golden["calibration"]]
    vp.attach(model, vp.LoRA(rank=4, alpha=6, targets=("qkv", "fc1"), init="eva"), samples=samples)
    assert method_of(model).rank_pattern == config["rank_pattern"]
    assert method_of(model).alpha_pattern == pytest.approx(config["alpha_pattern"])
    for name, rank in config["rank_pattern"].items():
        layer: Any = model.get_submodule(name)
        theirs = golden[f"init/base_model.model.{name}.lora_A.default.weight"]
        assert layer.lora.scaling == 1.5
        cosines = torch.linalg.svdvals(layer.lora.A @ torch.linalg.qr(theirs.T)[0])
        assert cosines.min() > 0.9, (name, rank, cosines)  # theirs is incremental and of low rank


@pytest.mark.parametrize("family", ["vit", "beit", "swin"])
def test_a_is_the_principal_directions_of_all_samples_and_b_is_zero(family):
    plain, samples = tiny(family), batches(family)
    x = torch.cat([batch for batch, _ in samples])
    model = vp.attach(tiny(family), vp.LoRA(rank=2, targets=("fc1", "fc2"), init="eva"), samples=samples)
    shares: dict[str, Tensor] = {}
    for name, module in plain.named_modules():
        if name.endswith(("mlp.fc1", "mlp.fc2")):
            _, S, Vh = torch.linalg.svd(inputs_of(plain, name, x), full_matrices=False)
            shares[name] = (S.square() / S.square().sum())[:4]
            rank = method_of(model).rank_pattern[name]
            layer: Any = model.get_submodule(name)
            assert isinstance(layer, graft.Graft) == (rank > 0)
            if rank:
                assert layer.lora.A.shape == (rank, module.in_features)  # pyright: ignore
                cosines = (layer.lora.A.double() * Vh[:rank]).sum(1).abs()
                torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=1e-5)
                assert (layer.lora.B == 0).all()
                assert layer.lora.B.shape == (module.out_features, rank)  # pyright: ignore
    ranked = sorted(((share.item(), name) for name, own in shares.items() for share in own), reverse=True)
    best = [name for _, name in ranked[: 2 * len(shares)]]
    assert method_of(model).rank_pattern == {name: best.count(name) for name in shares}
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-6)


def test_a_layer_of_rank_0_is_left_out_and_the_adapter_attaches_without_samples(tmp_path):
    model = tiny("vit")
    with torch.no_grad():  # the first MLP reads tokens that spread evenly: no direction explains much
        model.blocks[0].norm2.weight.copy_(torch.linspace(0.9, 1.1, 32))
        model.blocks[1].norm2.weight[4:] *= 1e-3
    backbone = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    samples = batches("vit", count=4)
    vp.attach(model, vp.LoRA(rank=1, alpha=3, targets=("fc1",), init="eva", rslora=True), samples=samples)
    assert method_of(model).rank_pattern == {"blocks.0.mlp.fc1": 0, "blocks.1.mlp.fc1": 2}
    assert method_of(model).alpha_pattern == {"blocks.1.mlp.fc1": 3 * 2**0.5}
    assert type(model.blocks[0].mlp.fc1) is torch.nn.Linear
    assert model.blocks[1].mlp.fc1.lora.scaling == pytest.approx(3)
    randomise_tuned(model)
    vp.save_adapter(model, tmp_path)
    fresh = tiny("vit")
    fresh.load_state_dict(backbone)
    assert torch.equal(vp.load_adapter(fresh, tmp_path)(samples[0][0]), model(samples[0][0]))


def test_a_layer_gets_at_most_rho_times_its_rank():
    model = tiny("vit")
    with torch.no_grad():
        model.blocks[1].norm2.weight[4:] *= 1e-3  # few directions explain all that the second MLP reads
    backbone, samples = model.state_dict(), batches("vit", count=4)
    for rho, ranks in ((1, [2, 2]), (1.5, [1, 3]), (2, [0, 4])):
        fresh = tiny("vit")
        fresh.load_state_dict(backbone)
        vp.attach(fresh, vp.LoRA(rank=2, targets=("fc1",), init="eva", eva_rho=rho), samples=samples)
        assert list(method_of(fresh).rank_pattern.values()) == ranks


def test_slices_of_one_layer_start_from_the_same_directions_and_slices_of_rank_0_go():
    samples = batches("vit")
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2, targets=("q", "v"), init="eva"), samples=samples)
    qkv: Any = model.get_submodule("blocks.0.attn.qkv")
    found = [len(qkv.lora[name].A) for name in qkv.lora]
    shorter = min(found)
    assert torch.equal(qkv.lora["q"].A[:shorter], qkv.lora["v"].A[:shorter])
    ranks = method_of(model).rank_pattern
    assert sum(ranks.values()) == 8
    one = vp.LoRA(
        rank=1, targets=("q", "v"), init="eva", rank_pattern={"0.attn.qkv.v": 0, "1.attn.qkv.q": 0}, eva_rho=1
    )
    model = vp.attach(tiny("vit"), one, samples=samples)
    layers: list[Any] = [model.get_submodule(f"blocks.{i}.attn.qkv") for i in range(2)]
    assert [list(layer.lora) for layer in layers] == [["q"], ["v"]]
    assert method_of(model).rank_pattern == {"blocks.0.attn.qkv.q": 1, "blocks.1.attn.qkv.v": 1}


@pytest.mark.parametrize("family", ["eva02_base", "rope_gqa"])
def test_separate_q_k_and_v_share_the_directions(family):
    method = vp.LoRA(rank=2, targets=("qkv",), init="eva")
    model = vp.attach(tiny(family), method, samples=batches(family))
    attn: Any = model.get_submodule("blocks.0.attn")
    rank = method_of(model).rank_pattern["blocks.0.attn.qkv"]
    assert [attn.q_proj.lora.B.shape[1], attn.k_proj.lora.B.shape[1], len(attn.q_proj.lora.A)] == [rank] * 3
    assert attn.v_proj.lora.down() is attn.q_proj.lora.A


def test_the_modes_and_the_gradients_of_the_model_stay():
    model = tiny("vit").train()
    vp.attach(model, vp.LoRA(rank=2, init="eva"), samples=batches("vit"))
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert all(t.requires_grad for n, t in model.named_parameters() if ".lora." in n)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (None, r"needs images to see what its layers read: pass attach\(model, method, samples=loader\)"),
        ([], r"16 directions need at least 17 tokens; blocks.0.attn.qkv reads of 0 images are 0: more samples"),
        ([torch.zeros(2, 3, 32, 32)], r"must be batches of \(images, labels\) tensors; got Tensor"),
        ([(torch.full((1, 3, 32, 32), torch.nan), torch.zeros(1))], "is not finite"),
    ],
    ids=["none", "empty", "no labels", "nan"],
)
def test_samples_that_do_not_do_are_refused_and_nothing_is_attached(samples, reason):
    model = tiny("vit")
    if samples and isinstance(samples[0], tuple):
        samples = [(samples[0][0].expand(2, -1, -1, -1), samples[0][1])]
    with pytest.raises(ValueError, match=reason):
        vp.attach(model, vp.LoRA(rank=8, init="eva"), samples=samples)
    assert not list(graft.grafts(model))
    assert record.find(model) is None


def test_too_few_tokens_for_the_directions_are_named():
    one = [(images(tiny("vit"), batch=1), torch.zeros(1))]  # 17 tokens
    vp.attach(tiny("vit"), vp.LoRA(rank=8, init="eva"), samples=one)
    with pytest.raises(ValueError, match=r"18 directions need at least 19 tokens; blocks.0.attn.* 1 images are 17"):
        vp.attach(tiny("vit"), vp.LoRA(rank=9, init="eva"), samples=one)


def test_convolutions_of_a_model_without_blocks_are_refused():
    model = timm.create_model("resnet18", num_classes=2)
    method = vp.LoRA(rank=2, targets=("all-linear",), init="eva")
    with pytest.raises(ValueError, match=r'init="eva" reads tokens; conv1 is a convolution: take another init'):
        vp.attach(model, method, samples=[(torch.zeros(2, 3, 64, 64), torch.zeros(2))])
    assert not list(graft.grafts(model))
