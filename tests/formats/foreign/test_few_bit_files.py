"""Files of Bi-AdaptFormer and Bi-LoRA: golden parity, the same bytes back, what they cannot tell, errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from support.families import images, randomise_tuned, tiny
from support.golden_file import Golden
from torch import Tensor

import vision_peft as vp
from vision_peft.formats.foreign.key_map import read_mapped
from vision_peft.inference.convert import convert_to

NAMES = ["bi_adaptformer", "bi_adaptformer_2bit", "bi_adaptformer_bihead", "bi_lora", "bi_lora_bihead"]
SIZE = {"bi_adaptformer": "bottleneck", "bi_lora": "rank"}


def source_of(name: str) -> str:
    return "bi_lora" if "lora" in name else "bi_adaptformer"


def told(config: dict[str, Any], name: str) -> dict[str, Any]:
    """What a yaml file says."""
    return {SIZE[source_of(name)]: config["bottleneck"], "bits": config["bits"], "scale": config["s"]}


def official_name(ours: str) -> str:
    ours = ours.replace("bi_adaptmlp.", "adapter_mlp.adapter_")
    return ours.replace("qkv.bi_lora.q.", "lora_q.adapter_").replace("qkv.bi_lora.v.", "lora_v.adapter_")


def put_on(file: Golden, foreign: Any) -> Any:
    base = {name: tensor for name, tensor in file.base.items() if not name.startswith("head.")}
    model: Any = file.backbone(num_classes=0, base=base)
    vp.replace_head(model, foreign.head, foreign.num_classes)
    vp.attach(model, foreign.method)
    vp.load_tuned(model, foreign.tuned)
    return model.eval()


@pytest.fixture
def golden(shared: Path):
    return lambda name: Golden(shared / "golden" / f"{name}.safetensors")


def test_no_golden_file_of_these_sources_is_left_out(shared):
    found = {path.stem for path in (shared / "golden").glob("bi_*") if "official" not in path.stem}
    assert found == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_latent_weights_give_the_logits_and_gradients_of_the_official_code_and_then_its_file(name, golden, tmp_path):
    file = golden(name)
    foreign = vp.read_foreign(file.state, source_of(name), **told(file.config, name))
    model = put_on(file, foreign)
    logits = model(file.input)
    assert (logits - file.logits).abs().max() <= 1e-5
    logits.square().sum().backward()
    tuned = dict(vp.tuned_parameters(model))
    assert {official_name(ours) for ours in tuned} == set(file.gradients)
    for ours, parameter in tuned.items():
        wanted = file.gradients[official_name(ours)]
        assert parameter.grad is not None
        assert (parameter.grad - wanted).norm() <= 1e-4 * wanted.norm(), ours
    folder = vp.write_foreign(model, tmp_path, source_of(name))
    assert (folder / "adapter.bin").read_bytes() == file.tensors["file_bytes"].numpy().tobytes()
    assert len(file.tensors["file_bytes"]) == file.config["bytes"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_the_logits_of_the_official_loading_and_the_same_bytes_again(name, golden, tmp_path):
    file = golden(name)
    raw = tmp_path / "task-bit1-dim8.bin"
    raw.write_bytes(file.tensors["file_bytes"].numpy().tobytes())
    sizes = {"width": file.config["arch"]["embed_dim"], "depth": file.config["arch"]["depth"]}
    sizes |= {"head_bits": file.config["head_bits"]}
    foreign = vp.read_foreign(raw, source_of(name), **told(file.config, name), **sizes)
    assert foreign.head == ("linear" if file.config["head_bits"] == 32 else "bi_linear_packed")
    assert foreign.num_classes == file.config["num_classes"]
    model = put_on(file, foreign)
    assert (model(file.input) - file.tensors["logits_loaded"]).abs().max() <= 1e-5
    folder = vp.write_foreign(model, tmp_path / "again", source_of(name))
    assert (folder / "adapter.bin").read_bytes() == raw.read_bytes()
    again = vp.read_foreign(folder, source_of(name))
    assert again.method == foreign.method
    assert again.tuned.keys() == foreign.tuned.keys()
    assert all(torch.equal(tensor, foreign.tuned[key]) for key, tensor in again.tuned.items())


def test_the_official_trained_files_are_decoded_to_its_weights(shared, tmp_path):
    paths = list((shared / "golden").glob("bi_official_*"))
    assert paths
    for path in paths:
        with safetensors.safe_open(path, "pt") as opened:
            config = json.loads(opened.metadata()["config"])
        tensors = safetensors.torch.load_file(path)
        data = {"file_bytes": tensors["file_bytes"]}
        source = source_of(config["method"])
        foreign, keys = read_mapped(data, source, **told(config, config["method"]), head_bits=config["head_bits"])
        assert foreign.num_classes == config["num_classes"]
        assert keys.dropped == ()
        for name in {name.rsplit(".", 1)[0] for name in foreign.tuned}:
            wanted = tensors[f"state/{official_name(name)}.weight"]
            if f"{name}.codes" not in foreign.tuned:
                assert torch.equal(foreign.tuned[f"{name}.weight"], wanted)
                continue
            codes = np.unpackbits(foreign.tuned[f"{name}.codes"].numpy(), bitorder="little")
            mean, std = foreign.tuned[f"{name}.mean"], foreign.tuned[f"{name}.std"]
            decoded = torch.from_numpy(codes * 2.0 - 1).float() * 0.6744897365570068 * std + mean
            torch.testing.assert_close(decoded.view_as(wanted), wanted, rtol=1e-6, atol=1e-7)


def fake(
    source: str = "bi_adaptformer", width: int = 8, depth: int = 2, head: int = 0, **fields: Any
) -> dict[str, Any]:
    """Bytes of zeros for these sizes, and the keywords that read them."""
    keywords = {SIZE[source]: 4, "bits": 1, "scale": 2.0, "width": width, "depth": depth, **fields}
    matrices = depth * (2 if source == "bi_adaptformer" else 4)
    size = matrices * (width * keywords[SIZE[source]] * keywords["bits"] // 8 + 8) + head
    return {"state": {"file_bytes": torch.zeros(size, dtype=torch.uint8)}, "keywords": keywords}


@pytest.mark.parametrize("source", SIZE)
def test_what_a_file_cannot_tell_must_be_given(source):
    with pytest.raises(ValueError, match=rf"needs the keyword {SIZE[source]} \(.*keyword bits \(.*keyword scale \("):
        vp.read_foreign(fake(source)["state"], source)


@pytest.mark.parametrize("source", SIZE)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bits": 3}, "bits must be one of 1, 2, 4; got 3"),
        ({"bits": 2}, "are no head of 8 channels"),
        ({"depth": 3}, "are no head of 8 channels"),
        ({"width": 16}, "are no head of 16 channels with 32 bits a weight"),
        ({"head_bits": 8}, "head_bits must be one of 1, 32; got 8"),
        ({"depth": 10**12}, "depth must be a whole number from 1 to 512; got 1000000000000"),
        ({"width": 0}, "width must be a whole number from 1 to 65,536; got 0"),
        ({"width": "8"}, "width must be a whole number from 1 to 65,536; got 8"),
    ],
)
def test_bytes_of_other_sizes_are_refused(source, change, reason):
    file = fake(source, head=4 * 3 * 9)
    assert vp.read_foreign(file["state"], source, **file["keywords"]).num_classes == 3
    with pytest.raises(ValueError, match=reason):
        vp.read_foreign(file["state"], source, **{**file["keywords"], **change})


def test_a_head_of_the_other_kind_is_named():
    file = fake(head=5 + 8)
    with pytest.raises(ValueError, match=r"the other 13 are no head of 8 .* but one of 5 classes with head_bits=1$"):
        vp.read_foreign(file["state"], "bi_adaptformer", **file["keywords"])
    foreign = vp.read_foreign(file["state"], "bi_adaptformer", **file["keywords"], head_bits=1)
    assert (foreign.head, foreign.num_classes) == ("bi_linear_packed", 5)
    file = fake(width=24, head=4 * 4 * 25)
    with pytest.raises(
        ValueError, match=r"the other 400 are no head of 24 .* 1 bits a weight, but one of 4 classes with"
    ):
        vp.read_foreign(file["state"], "bi_adaptformer", **{**file["keywords"], "head_bits": 1, "width": 24})


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"blocks.0.norm1.weight": torch.ones(8)}, "not a Bi-AdaptFormer file: cannot explain blocks.0.norm1.weight"),
        ({"blocks.1.adapter_mlp.adapter_up.weight": torch.ones(4, 8)}, r"wanted \(any, 4\), got \(4, 8\)"),
        ({"blocks.2.adapter_mlp.adapter_up.weight": torch.ones(8, 4)}, "adapter_down.weight is missing"),
    ],
)
def test_other_tensors_are_an_error_that_names_them(tensors, reason):
    latent: dict[str, Tensor] = {f"blocks.{i}.adapter_mlp.adapter_down.weight": torch.ones(4, 8) for i in (0, 1)}
    latent |= {f"blocks.{i}.adapter_mlp.adapter_up.weight": torch.ones(8, 4) for i in (0, 1)}
    with pytest.raises(ValueError, match=reason):
        vp.read_foreign({**latent, **tensors}, "bi_adaptformer", bottleneck=4, bits=1, scale=1.0)


@pytest.mark.parametrize(
    ("methods", "target", "reason"),
    [
        ([vp.LoRA(rank=2)], "bi_lora", "wants a model with BiLoRA in all blocks and nothing else, got LoRA"),
        ([vp.BiLoRA(rank=2)], "bi_adaptformer", "wants a model with BiAdaptFormer in all blocks"),
        ([vp.BiLoRA(rank=2), vp.BitFit()], "bi_lora", "and nothing else, got BiLoRA.*, BitFit"),
        ([vp.BiLoRA(rank=2, blocks="last 1")], "bi_lora", "in all blocks and nothing else"),
    ],
    ids=str,
)
def test_a_model_that_the_format_cannot_hold_is_refused(methods, target, reason, tmp_path):
    model: Any = tiny("vit")
    for method in methods:
        vp.attach(model, method)
    with pytest.raises(ValueError, match=reason):
        vp.write_foreign(model, tmp_path / "out", target)
    assert not (tmp_path / "out").exists()


def test_weights_that_fill_no_whole_bytes_and_other_heads_are_refused(tmp_path):
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=6, num_heads=2, depth=1, num_classes=3)
    vp.attach(model, vp.BiAdaptFormer(bottleneck=3))
    with pytest.raises(ValueError, match=r"has 18 weights of 1 bits, which fill no whole bytes.*lose the last ones"):
        vp.write_foreign(model, tmp_path / "out", "bi_adaptformer")
    model = vp.attach(tiny("vit"), vp.BiAdaptFormer(bottleneck=4))
    vp.replace_head(model, "mlp-2", 3)
    with pytest.raises(ValueError, match=r"hold a linear head or one of 1 bit, got mlp-2"):
        vp.write_foreign(model, tmp_path / "out", "bi_adaptformer")
    assert not (tmp_path / "out").exists()


def test_a_folder_needs_its_keywords(tmp_path):
    model = vp.attach(tiny("vit"), vp.BiLoRA(rank=4))
    randomise_tuned(model)
    folder = vp.write_foreign(model, tmp_path / "out", "bi_lora")
    found = vp.read_foreign(folder, "bi_lora")
    fresh = vp.attach(tiny("vit"), found.method)  # type: ignore[arg-type]
    vp.load_tuned(fresh, found.tuned)
    x = images(fresh)
    torch.testing.assert_close(fresh.eval()(x), model.eval()(x), rtol=0, atol=1e-5)
    assert vp.read_foreign(folder, "bi_lora", scale=3.0).method == vp.BiLoRA(rank=4, scale=3.0, packed=True)
    (folder / "keywords.json").write_text("[]")
    with pytest.raises(ValueError, match=r"keywords.json: wanted an object, got list"):
        vp.read_foreign(folder, "bi_lora")


def test_convert_writes_and_reads_the_folder(tmp_path):
    model = vp.attach(tiny("vit"), vp.BiAdaptFormer(bottleneck=4))
    done = convert_to(model, tmp_path / "out", "bi_adaptformer")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter.bin", "keywords.json"]
    assert done.methods == (vp.BiAdaptFormer(bottleneck=4, packed=True),)
    assert done.num_classes == 5
