"""LST's ladder written out, against the official module; no graph into the backbone; choices and refusals."""

import copy
import json
from itertools import pairwise
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from support.block_inputs import recorded_calls
from support.families import images, randomise_tuned, tiny
from support.vit_base import count_on_vit_base
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.methods.lst import Ladder
from vision_peft.tuning.blocks import blocks

SETTINGS = [{}, {"gate": "none"}, {"mix": "after"}, {"blocks": (1,)}, {"blocks": (0,), "gate": "none", "mix": "after"}]


def climbed(
    ladder: Any, features: list[Tensor], gate: str = "learned", mix: str = "before", blocks: Any = (0, 1)
) -> Tensor:
    """Up s, by the equation."""
    s = features[0] @ ladder.first_down.weight.T
    for index, layer in enumerate(blocks):
        b = features[layer + 1] @ ladder.downs[index].weight.T
        g = 1 / (1 + (-ladder.gates[index] / 0.1).exp()) if gate == "learned" else None
        steps = [lambda s, b=b, g=g: s + b if g is None else g * s + (1 - g) * b, ladder.blocks[index]]
        for step in steps if mix == "before" else steps[::-1]:
            s = step(s)
    return s @ ladder.up.weight.T


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("family", ["vit", "vit_avg", "dinov2_reg4", "eva02_base", "beit"])
def test_the_head_reads_the_normalised_end_of_the_ladder(family, setting):
    model: Any = vp.attach(tiny(family), vp.LST(reduction=4, **setting))
    randomise_tuned(model)
    plain = tiny(family)
    x = images(plain)
    with torch.no_grad(), recorded_calls(plain.blocks) as calls:
        plain(x)
        features = [calls[0][1][0], *[call[3] for call in calls]]
        expected = plain.norm(climbed(model.norm.lst, features, **setting))
        torch.testing.assert_close(model.eval().forward_features(x), expected, rtol=1e-5, atol=5e-5)


def test_counts_are_those_of_the_closed_form():
    for reduction, figure in [(16, 855_372), (8, 2_374_284), (4, 7_402_764), (2, 25_422_348)]:
        counts = count_on_vit_base(vp.LST(reduction=reduction))
        L, D, d = 12, 768, 768 // reduction
        assert counts.trained == counts.stored == L * (12 * d * d + 13 * d) + (L + 1) * D * d + d * D + L == figure


@pytest.mark.parametrize("family", ["vit", "eva02_base", "beit", "swin"])
def test_training_builds_no_graph_into_the_backbone(family):
    model: Any = vp.train_mode(vp.attach(tiny(family), vp.LST(reduction=4)))
    frozen = [model.patch_embed, *(model.layers if family == "swin" else model.blocks)]
    with recorded_calls([*blocks(model), *frozen]) as calls:
        y = model(images(model))
    assert y.requires_grad
    assert not any(call[3].requires_grad for call in calls)
    inside = {id(p) for part in frozen for p in part.parameters()}
    reached, nodes = set(), [y.grad_fn]
    while nodes:
        node: Any = nodes.pop()
        if node is not None and node not in reached:
            reached.add(node)
            nodes += [parent for parent, _ in node.next_functions]
    leaves = {id(node.variable) for node in reached if type(node).__name__ == "AccumulateGrad"}
    assert leaves
    assert not leaves & inside


@pytest.mark.parametrize(
    ("other", "family"),
    [
        (vp.LoRA(rank=2), "vit"),
        (vp.VPT(tokens=3), "vit"),
        (vp.VPT(tokens=3, deep=False), "vit"),
        (vp.LoRA(rank=2), "swin"),
        (vp.VPT(tokens=3), "swin"),
        (vp.SSF(), "swin"),
        (vp.LoRA(rank=2), "swin_v2_cr"),
        (vp.VPT(tokens=3), "swin_v2_cr"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_method_inside_the_backbone_learns_through_the_ladder(other, family, order, checkpointing):
    model: Any = tiny(family)
    for method in [vp.LST(reduction=4), other][::order]:
        vp.attach(model, method)
    randomise_tuned(model)
    model.set_grad_checkpointing(checkpointing)
    for _ in range(2):  # a second step must not see what the first one left
        model.zero_grad()
        model(images(model, batch=4)).square().sum().backward()
    silent = [n for n, p in vp.tuned_parameters(model) if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []
    copy.deepcopy(model)


@pytest.mark.parametrize("family", ["vit", "swin", "swin_v2_cr"])
def test_checkpointing_gives_the_same_gradients_also_of_two_batches_at_once(family):
    model: Any = vp.attach(vp.attach(tiny(family), vp.LoRA(rank=2)), vp.LST(reduction=4))
    randomise_tuned(model)
    gradients = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        torch.cat([model(images(model, seed=seed)) for seed in (1, 2)]).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in vp.tuned_parameters(model)})  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_stage_that_ends_in_the_final_norm_is_checkpointed_again_without_the_ladder():
    model: Any = vp.attach(tiny("swin_v2_cr"), vp.LST(reduction=4))
    model.set_grad_checkpointing(True)
    assert [stage.grad_checkpointing for stage in model.stages] == [True, False]
    vp.detach(model)
    assert [stage.grad_checkpointing for stage in model.stages] == [True, True]


def test_normalised_intermediates_are_the_ladder_up_to_each_layer():
    model: Any = vp.attach(tiny("vit"), vp.LST(reduction=4))
    randomise_tuned(model)
    model.eval()
    plain = tiny("vit")
    x = images(plain)
    with torch.no_grad(), recorded_calls(plain.blocks) as calls:
        plain(x)
        features = [calls[0][1][0], *[call[3] for call in calls]]
        final, found = model.forward_intermediates(x, norm=True, output_fmt="NLC")
        for depth, y in enumerate(found, 1):
            expected = plain.norm(climbed(model.norm.lst, features, blocks=range(depth)))[:, 1:]
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=5e-5)
        torch.testing.assert_close(final[:, 1:], found[-1])


class PostNormLayer(nn.Module):
    """The official layers (BERT's, post-norm), under the official names."""

    def __init__(self, state: dict[str, Tensor], prefix: str, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.p = nn.ParameterDict(
            {
                name.removeprefix(prefix).replace(".", "-"): nn.Parameter(t)
                for name, t in state.items()
                if name.startswith(prefix)
            }
        )

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.p[f"{name}-weight"].T + self.p[f"{name}-bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], self.p[f"{name}-weight"], self.p[f"{name}-bias"], 1e-12)

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.linear(f"attention-self-{part}", x) for part in ("query", "key", "value"))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attention = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        out = self.linear("attention-output-dense", attention.transpose(1, 2).flatten(2))
        x = self.norm("attention-output-LayerNorm", out + x)
        hidden = nn.functional.gelu(self.linear("intermediate-dense", x))
        return self.norm("output-LayerNorm", self.linear("output-dense", hidden) + x)


@pytest.mark.parametrize("name", ["lst_visualbert", "lst_visualbert_residual_after", "lst_visualbert_nogate_drop1"])
def test_the_ladder_around_official_layers_is_the_official_encoder(name, shared):
    path = shared / "golden" / f"{name}.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = safetensors.torch.load_file(path)
    state = {key.removeprefix("state/"): t for key, t in tensors.items() if key.startswith("state/")}
    gradients = {key.removeprefix("grad/"): t for key, t in tensors.items() if key.startswith("grad/")}
    side, heads = config["side"], config["num_heads"]
    chosen = tuple(json.loads(side["encoder_side_layers"] or str(list(range(config["depth"])))))
    gate = {"learnable": "learned", "none": "none"}[side["use_gate"]]
    method = vp.LST(
        reduction=config["reduction"], gate=gate, mix="after" if side["add_residual_after"] else "before", blocks=chosen
    )
    ladder: Any = Ladder([[Block(config["dim"], heads) for _ in range(config["depth"])]], chosen, method)
    ladder.blocks = nn.ModuleList(PostNormLayer(state, f"side_block_l.{i}.", heads) for i in chosen)
    with torch.no_grad():
        ladder.first_down.weight.copy_(state["side_first_downsample_l.weight"])
        ladder.up.weight.copy_(state["side_final_upsample_l.weight"])
        for index, layer in enumerate(chosen):
            ladder.downs[index].weight.copy_(state[f"side_downsamples_l.{layer}.weight"])
            if ladder.gates is not None:
                ladder.gates[index] = state[f"side_gate_params_l.{layer}"].item()
        features = [tensors["input"]]
        for i in range(config["depth"]):
            features.append(PostNormLayer(state, f"layer.{i}.", heads)(features[-1]))
        assert all(a.shape == b.shape for a, b in pairwise(features))
    output = ladder(features)
    assert (output - tensors["output"]).abs().max() <= 1e-5
    (output * tensors["target"]).sum().backward()
    ours: dict[str, Any] = {"side_first_downsample_l.weight": ladder.first_down.weight.grad}
    ours["side_final_upsample_l.weight"] = ladder.up.weight.grad
    for index, layer in enumerate(chosen):
        ours[f"side_downsamples_l.{layer}.weight"] = ladder.downs[index].weight.grad
        block: Any = ladder.blocks[index]
        ours |= {f"side_block_l.{layer}.{key.replace('-', '.')}": p.grad for key, p in block.p.items()}
        if ladder.gates is not None and ladder.gates.grad is not None:
            ours[f"side_gate_params_l.{layer}"] = ladder.gates.grad[index : index + 1]
    assert ours.keys() == gradients.keys()
    for key, expected in gradients.items():
        tolerance = 1e-4 if key.endswith("key.bias") else 1e-4 * expected.norm()  # softmax ignores a key bias
        assert (ours[key] - expected).norm() <= tolerance, key


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"reduction": 0}, "reduction must"),
        ({"gate": "fixed"}, "gate must be one of 'learned', 'none'; got 'fixed'"),
        ({"mix": "both"}, "mix must be one of 'before', 'after'; got 'both'"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.LST(**fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"reduction": 32}, "reduction must make the width 32 a multiple of 2 heads; got 32, a side width of 1"),
        ({"reduction": 5}, "got 5, a side width of 6.4"),
        ({"blocks": (2,)}, r"blocks=\[2\], but this backbone has 2 blocks \(0 to 1\)"),
    ],
)
def test_a_ladder_that_does_not_fit_the_backbone_is_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.attach(tiny("vit"), vp.LST(**fields))
