"""Files of the official video code: AdaptFormer, VideoMAE, ST-Adapter, AIM. Golden parity, what is read, errors."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.blocks import blocks

VIDEO = {"img_size": 32, "num_frames": 4}  # files without positions do not tell
FINAL = (vp.NormTuning(norms="final"),)

# golden file: (source, what the file does not tell, what build must be told, method, methods beside it)
GOLDEN: dict[str, tuple[str, dict[str, Any], dict[str, Any], vp.Method | None, tuple[vp.Method, ...]]] = {
    "adaptformer_video": ("adaptformer", {}, VIDEO, vp.AdaptFormer(bottleneck=4, dropout=0.0), FINAL),
    "adaptformer_video_vpt": ("adaptformer", {}, VIDEO, vp.VPT(tokens=3), FINAL),
    "videomae_finetune": ("videomae", {}, VIDEO, None, ()),
    "st_adapter_k333": (
        "st_adapter",
        {},
        {"num_frames": 4},
        vp.STAdapter.as_published(width=12, kernel=(3, 3, 3), sites=("attn",)),
        (),
    ),
    "st_adapter_pre_mlp_last2": (
        "st_adapter",
        {},
        {"num_frames": 4},
        vp.STAdapter.as_published(width=12, sites=("mlp",), blocks="last 2"),
        (),
    ),
    "st_adapter_two_per_block": (
        "st_adapter",
        {},
        {"num_frames": 4},
        vp.STAdapter.as_published(width=12, sites=("attn", "mlp")),
        (),
    ),
    "aim_vit_clip": ("aim", {"scale": 0.5}, {}, vp.AIM(), ()),
    "aim_vit_clip_two_tadapters": ("aim", {"scale": 1.0}, {}, vp.AIM.as_published("ssv2"), ()),
    "aim_vit_imagenet": ("aim", {"scale": 0.5}, {}, vp.AIM(), ()),
    "aim_vit_imagenet_two_tadapters": ("aim", {"scale": 1.0}, {}, vp.AIM.as_published("ssv2"), ()),
}
BLOCKS = ("st_adapter_block", "aim_clip_block")  # tested in tests/methods
DEPTH, WIDTH, HEADS, CLASSES = 3, 32, 2, 5


class Golden:
    """One golden file: official state, input, target, logits and gradients of the tuned tensors."""

    def __init__(self, path: Path) -> None:
        with safetensors.safe_open(path, "pt") as file:
            self.config = json.loads(file.metadata()["config"])
        tensors = safetensors.torch.load_file(path)
        self.state = {n.removeprefix("state/"): t for n, t in tensors.items() if n.startswith("state/")}
        self.gradients = {n.removeprefix("grad/"): t for n, t in tensors.items() if n.startswith("grad/")}
        self.input, self.target, self.logits = tensors["input"], tensors["target"], tensors["logits"]


@pytest.fixture
def golden(shared: Path):
    return lambda name: Golden(shared / "golden" / f"{name}.safetensors")


def test_no_golden_file_of_these_sources_is_left_out(shared):
    kinds = ("adaptformer_video*", "videomae*", "st_adapter*", "aim*")
    found = {path.stem for kind in kinds for path in (shared / "golden").glob(kind)}
    assert found == {*GOLDEN, *BLOCKS}


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_and_gradients_are_those_of_the_official_code(name, golden):
    source, told, given, method, beside = GOLDEN[name]
    file = golden(name)
    foreign = vp.read_foreign(file.state, source, **told)
    assert (foreign.method, foreign.beside, foreign.num_classes) == (method, beside, CLASSES)
    model = foreign.build(num_heads=HEADS, **given)
    assert (len(blocks(model)), model.embed_dim, model.num_classes) == (DEPTH, WIDTH, CLASSES)
    assert not model.training
    logits = model(file.input)
    assert (logits - file.logits).abs().max() <= 1e-5
    torch.nn.functional.cross_entropy(logits, file.target).backward()
    theirs = {our_name(official): g for official, g in file.gradients.items()}
    ours = {n: p.grad for n, p in vp.tuned_parameters(model)}
    if method is None:  # everything trains, the file tells of norm and head
        ours = {n: g for n, g in ours.items() if n in theirs}
    assert theirs.keys() == ours.keys()
    for key, gradient in ours.items():
        wanted = theirs[key]
        assert gradient is not None
        assert (gradient - wanted.reshape(gradient.shape)).norm() <= 1e-4 * wanted.norm(), key


def our_name(official: str) -> str:
    """The name of our parameter, written out independently of vision_peft.formats."""
    name = re.sub(r"^(backbone\.)?(transformer\.resblocks|blocks)\.", "blocks.", official)
    name = re.sub(r"^embeddings\.(\d+)$", r"blocks.\1.attn.prompts", name)
    name = re.sub(r"^(cls_head\.fc_cls|fc)\.", "head.", name)
    name = name.replace("backbone.ln_post", "norm").replace("backbone.temporal_embedding", "norm_pre.temporal_embed")
    for theirs, ours in {
        "adapter_pre_attn.fc1": "st_adapter.attn.down_proj",
        "adapter_pre_attn.fc2": "st_adapter.attn.up_proj",
        "adapter_pre_attn.conv": "st_adapter.attn.conv",
        "adapter_pre_mlp.fc1": "st_adapter.mlp.down_proj",
        "adapter_pre_mlp.fc2": "st_adapter.mlp.up_proj",
        "adapter_pre_mlp.conv": "st_adapter.mlp.conv",
        "T_Adapter_in.": "aim.temporal_in.",
        "T_Adapter.": "aim.temporal.",
        "S_Adapter.": "drop_path1.aim_spatial.",
        "MLP_Adapter.": "aim.mlp.",
        "D_fc1": "down_proj",
        "D_fc2": "up_proj",
    }.items():
        name = name.replace(theirs, ours)
    return name


@pytest.mark.parametrize("name", ["st_adapter_two_per_block", "st_adapter_pre_mlp_last2"])
def test_the_official_adapter_before_the_last_mlp_never_learns_and_does_nothing(name, golden):
    file = golden(name)
    dead = [n for n in file.gradients if n.startswith(f"transformer.resblocks.{DEPTH - 1}.adapter_pre_mlp.")]
    assert len(dead) == 6
    assert all(not file.gradients[n].any() for n in dead)
    changed = {**file.state, **{n: torch.randn_like(file.state[n]) for n in dead}}
    model = vp.read_foreign(changed, "st_adapter").build(HEADS, num_frames=4)
    assert (model(file.input) - file.logits).abs().max() <= 1e-5


def test_the_order_of_mean_and_norm_matters(golden):
    # ST-Adapter norms the mean of the frames' class tokens, AIM takes the mean of the normed ones.
    import dataclasses

    file = golden("st_adapter_k333")
    foreign = dataclasses.replace(vp.read_foreign(file.state, "st_adapter"), clips="frames")
    assert (foreign.build(HEADS, num_frames=4)(file.input) - file.logits).abs().max() > 1e-4


def test_a_video_model_says_what_the_file_does_not_tell(golden):
    foreign = vp.read_foreign(golden("videomae_finetune").state, "videomae")
    with pytest.raises(ValueError, match=r"no position embeddings.*img_size=.*num_frames="):
        foreign.build(HEADS)
    with pytest.raises(ValueError, match=r"num_frames="):
        foreign.build(HEADS, img_size=32)
    with pytest.raises(ValueError, match=r"num_frames 3 is not a multiple of tubelet_size 2"):
        foreign.build(HEADS, img_size=32, num_frames=3)
    with pytest.raises(ValueError, match=r"num_frames="):
        vp.read_foreign(golden("st_adapter_k333").state, "st_adapter").build(HEADS)


def test_frames_that_contradict_the_file_and_frames_for_images_are_refused(golden):
    foreign = vp.read_foreign(golden("aim_vit_clip").state, "aim", scale=0.5)
    with pytest.raises(ValueError, match=r"tuned on 4 frames.*num_frames=8"):
        foreign.build(HEADS, num_frames=8)
    with pytest.raises(ValueError, match=r"image model.*num_frames=8"):
        vp.read_foreign(golden("adaptformer_image").state, "adaptformer").build(HEADS, num_frames=8)


def test_adapters_alone_are_read_for_a_backbone_of_your_own(golden):
    for name, part, told in [("st_adapter_k333", "adapter_pre", {}), ("aim_vit_clip", "Adapter", {"scale": 0.5})]:
        file = golden(name)
        tuned = {n: t for n, t in file.state.items() if part in n or re.search("ln_post|temporal_emb|fc_cls|^fc", n)}
        if name.startswith("st"):
            tuned = {n: t for n, t in tuned.items() if "ln_post" not in n}
        foreign = vp.read_foreign(tuned, GOLDEN[name][0], **told)
        assert foreign.backbone is None
        assert foreign.method == GOLDEN[name][3]
        whole = vp.read_foreign(file.state, GOLDEN[name][0], **told)
        assert foreign.tuned.keys() == whole.tuned.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_a_strange_key_is_refused_by_name(name, golden):
    source, told = GOLDEN[name][:2]
    with pytest.raises(ValueError, match=r"cannot explain .*strange\.weight"):
        vp.read_foreign({**golden(name).state, "strange.weight": torch.zeros(1)}, source, **told)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("adaptformer_video", "blocks.1.attn.v_bias"),
        ("videomae_finetune", "blocks.1.attn.q_bias"),
        ("st_adapter_two_per_block", "transformer.resblocks.1.adapter_pre_mlp.conv.weight"),
        ("st_adapter_k333", "transformer.resblocks.1.ln_2.weight"),
        ("aim_vit_clip", "backbone.transformer.resblocks.1.S_Adapter.D_fc1.bias"),
        ("aim_vit_imagenet", "backbone.temporal_embedding"),
        ("aim_vit_imagenet", "backbone.ln_post.weight"),
    ],
)
def test_a_missing_key_is_named(name, key, golden):
    source, told = GOLDEN[name][:2]
    state = golden(name).state
    del state[key]
    with pytest.raises(ValueError, match=f"not a complete {source} file: .*{re.escape(key.removeprefix('backbone.'))}"):
        vp.read_foreign(state, source, **told)


def test_adapters_that_are_not_in_the_last_blocks_are_refused(golden):
    state = golden("st_adapter_pre_mlp_last2").state
    state = {n: t for n, t in state.items() if not n.startswith("transformer.resblocks.2.adapter_pre_mlp")}
    with pytest.raises(ValueError, match=r"last blocks, up to number 2, got them in \[1\]"):
        vp.read_foreign(state, "st_adapter")


def test_a_pretraining_file_of_videomae_is_sent_to_create_backbone():
    with pytest.raises(ValueError, match="create_backbone"):
        vp.read_foreign({"encoder.norm.weight": torch.ones(8), "decoder.norm.weight": torch.ones(4)}, "videomae")


def test_key_biases_are_zero(golden):
    state: dict[str, Tensor] = golden("videomae_finetune").state
    backbone = vp.read_foreign(state, "videomae").backbone or {}
    q, k, v = backbone["blocks.0.attn.qkv.bias"].chunk(3)
    assert torch.equal(q, state["blocks.0.attn.q_bias"])
    assert torch.equal(v, state["blocks.0.attn.v_bias"])
    assert not k.any()
