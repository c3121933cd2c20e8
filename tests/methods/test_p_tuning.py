"""P-Tuning: the official prompt encoders, what they start from, and what baking keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from support.families import FLAT, images, randomise_tuned, tiny

import vision_peft as vp
from vision_peft.tuning.embed_samples import patch_tokens
from vision_peft.tuning.input_tokens import prompt_insertion_module

D = 768
GOLDEN = {
    "ptuning_lama_lstm": vp.PTuning(tokens=5, lstm_width="half"),
    "ptuning_fewshot_lstm": vp.PTuning(tokens=5, lstm_width="full"),
    "ptuning_fewshot_mlp": vp.PTuning(tokens=5, encoder="mlp"),
}


def our_name(official: str) -> str:
    name = official.removeprefix("prompt_").replace("embeddings.", "embedding.")
    return f"norm_pre.pseudo_tokens.{name.replace('lstm_head.', 'lstm.').replace('mlp_head.', 'mlp.')}"


@pytest.mark.parametrize(("file", "method"), GOLDEN.items(), ids=list(GOLDEN))
def test_tokens_and_gradients_are_those_of_the_official_encoder(file: str, method: vp.Method, shared: Path) -> None:
    with safe_open(shared / "golden" / f"{file}.safetensors", "pt") as golden:
        assert json.loads(golden.metadata()["config"])["p"] == 5
        tensors = {name: golden.get_tensor(name) for name in golden.keys()}  # noqa: SIM118 (not a dict)
    model: Any = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=1, num_heads=2, num_classes=0
    )
    vp.attach(model, method)
    vp.load_tuned(model, {our_name(n.removeprefix("state/")): t for n, t in tensors.items() if n.startswith("state/")})
    output = model.norm_pre.pseudo_tokens()
    torch.testing.assert_close(output, tensors["output"], rtol=1e-5, atol=1e-5)
    (output * tensors["target"]).sum().backward()
    for name, gradient in tensors.items():
        if name.startswith("grad/"):
            own = model.get_parameter(our_name(name.removeprefix("grad/"))).grad
            torch.testing.assert_close(own, gradient, rtol=1e-4, atol=1e-5)


def lstm(hidden: int) -> int:
    """Two layers, two directions, four gates; torch keeps two biases."""
    return sum(2 * (4 * hidden * (inputs + hidden) + 2 * 4 * hidden) for inputs in (D, 2 * hidden))


def head(inputs: int) -> int:
    return inputs * D + D + D * D + D


@pytest.mark.parametrize(
    ("method", "trained", "figure"),
    [
        (vp.PTuning(), lstm(D // 2) + head(D) + 10 * D, 8_279_040),
        (vp.PTuning(tokens=100), lstm(D // 2) + head(D) + 100 * D, 8_348_160),
        (vp.PTuning(lstm_width="full"), lstm(D) + head(2 * D) + 10 * D, 25_396_224),
        (vp.PTuning(encoder="mlp"), head(D) + 10 * D, 1_188_864),
        (vp.PTuning(encoder="none"), 10 * D, 7_680),
    ],
    ids=repr,
)
def test_the_encoder_trains_and_the_tokens_are_stored(method, trained, figure):
    model: Any = timm.create_model("vit_base_patch16_224", num_classes=0, depth=1)
    counts = vp.count_parameters(vp.attach(model, method))
    assert trained == figure
    assert (counts.trained, counts.stored) == (figure, method.tokens * D)


@pytest.mark.parametrize("family", FLAT)
@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
def test_baked_it_is_shallow_prompt_tuning_with_the_tokens_of_the_encoder(family, encoder):
    model = vp.attach(tiny(family), vp.PTuning(tokens=3, encoder=encoder))
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    seat: Any = prompt_insertion_module(model)
    shallow = vp.attach(tiny(family), vp.VPT(tokens=3, deep=False))
    own = {name: tensor for name, tensor in vp.tuned_state_dict(model).items() if "pseudo_tokens" not in name}
    (name,) = [name for name in vp.tuned_state_dict(shallow) if name.endswith(".prompts")]
    vp.load_tuned(shallow, {**own, name: seat.pseudo_tokens()})
    torch.testing.assert_close(shallow(x), expected, rtol=1e-5, atol=1e-5)
    vp.bake(model)
    assert seat.pseudo_tokens.shape == (3, 32)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoder", ["lstm", "none"])
@pytest.mark.parametrize("family", FLAT)
def test_embeddings_can_start_from_patch_tokens_of_samples(family, encoder, tmp_path):
    plain, model = tiny(family), tiny(family)
    batch = (images(model, batch=4), torch.tensor([0, 1, 2, 1]))
    tokens = patch_tokens(plain, batch[0][:3]).flatten(0, 1)  # one image a class
    vp.attach(model, vp.PTuning(tokens=3, init="patches", encoder=encoder), samples=[batch])
    drawn: Any = prompt_insertion_module(model).pseudo_tokens
    drawn = drawn if encoder == "none" else drawn.embedding.weight
    nearest = (drawn[:, None] - tokens).norm(dim=-1).min(1)
    torch.testing.assert_close(nearest.values, torch.zeros(3), rtol=0, atol=1e-4)
    assert len(set(nearest.indices.tolist())) == 3
    vp.save_adapter(model, tmp_path, keep_reparametrization=True)
    x = images(model)
    assert torch.equal(vp.load_adapter(tiny(family), tmp_path)(x), model(x)), "loading needs no samples"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": 0}, "tokens must"),
        ({"encoder": "gru"}, "encoder must be one of 'lstm', 'mlp', 'none'"),
        ({"lstm_width": "double"}, "lstm_width must"),
        ({"positions": "middle"}, "positions must"),
        ({"init": "words"}, "init must"),
    ],
)
def test_impossible_fields_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        vp.PTuning(**fields)


def test_presets_are_the_encoders_of_the_two_released_codes():
    assert vp.PTuning.as_published(tokens=5) == vp.PTuning(tokens=5, encoder="lstm", lstm_width="half")
    assert vp.PTuning.as_published(few_shot=True) == vp.PTuning(encoder="lstm", lstm_width="full")


def test_the_embeddings_start_from_the_normal_distribution_of_torch():
    torch.manual_seed(0)
    encoder: Any = prompt_insertion_module(vp.attach(tiny("vit"), vp.PTuning(tokens=400))).pseudo_tokens
    assert abs(encoder.embedding.weight.std().item() - 1) < 0.03
    assert encoder.lstm.dropout == 0


def test_samples_are_asked_for_where_needed_and_refused_elsewhere():
    with pytest.raises(ValueError, match=r"pass attach\(model, method, samples=loader\)"):
        vp.attach(tiny("vit"), vp.PTuning(init="patches"))
    with pytest.raises(ValueError, match="PTuning takes no samples"):
        vp.attach(tiny("vit"), vp.PTuning(), samples=[])
