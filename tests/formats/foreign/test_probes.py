"""Files of efficient probing and of V-JEPA 2's attentive classifiers: golden parity, what they cannot tell, errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning.attentive import AttentiveHead, AttentivePool
from vision_peft.tuning.head_kinds import AttentivePooler, read_head

EP = ("ep", "ep_all", "ep_dout2")
EP_NAMES = {
    "head.pool.queries": "head.0.cls_token",
    "head.pool.value.weight": "head.0.v.weight",
    "head.classifier.1.weight": "head.2.weight",
    "head.classifier.1.bias": "head.2.bias",
}
CLASSIFIERS = ("vjepa2_attentive_bare", "vjepa2_attentive_depth1", "vjepa2_attentive_depth3")


@pytest.fixture
def golden(shared: Path):
    return lambda name: safetensors.torch.load_file(shared / "golden" / f"{name}.safetensors")


@pytest.fixture
def config(shared: Path):
    def read(name: str) -> dict[str, Any]:
        with safetensors.safe_open(shared / "golden" / f"{name}.safetensors", "pt") as file:
            return json.loads(file.metadata()["config"])

    return read


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def official_model(file: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint as main_linprobe.py saves it: the backbone, and the probe in place of its classifier."""
    backbone = {name: tensor for name, tensor in below(file, "base/").items() if not name.startswith("head.")}
    return {**backbone, **below(file, "state/")}


def compare(gradient: Tensor | None, wanted: Tensor) -> None:
    assert gradient is not None
    assert (gradient - wanted).abs().max() <= 1e-4 * wanted.abs().max() + 1e-9


def test_no_golden_file_of_probes_is_left_out(shared):
    names = {path.stem for pattern in ("ep*", "vjepa2_att*") for path in (shared / "golden").glob(f"{pattern}.saf*")}
    assert names == {*EP, "ep_lars3", *CLASSIFIERS, "vjepa2_attentive_pooler_q"}


@pytest.mark.parametrize("name", EP)
def test_logits_gradients_and_statistics_of_efficient_probing(name, golden, config):
    file, told = golden(name), config(name)
    tokens = {"patch": "patch", "cls+patch": "all"}[told["tokens"]]
    foreign = vp.read_foreign(official_model(file), "ep", tokens=tokens, norm=told["final_norm"])
    assert foreign.num_classes == 5
    assert read_head(foreign.head) == read_head(
        "attentive", {"queries": told["queries"], "reduce": told["d_out"], "tokens": tokens, "norm": False}
    )
    model: Any = vp.attach(foreign.build(num_heads=told["arch"]["num_heads"]), vp.LinearProbe())
    logits = model(file["input"])
    assert (logits - file["logits"]).abs().max() <= 1e-5
    logits.square().sum().backward()
    trained = dict(vp.tuned_parameters(model))
    assert trained.keys() == EP_NAMES.keys()
    for ours, theirs in EP_NAMES.items():
        wanted = file[f"grad/{theirs}"]
        compare(trained[ours].grad, wanted[0] if wanted.ndim == 3 else wanted)
    vp.train_mode(model)
    trained_logits = file["logits_train"]  # BatchNorm over three images divides by small deviations: relative
    assert (model(file["input"]) - trained_logits).abs().max() <= 1e-5 * trained_logits.abs().max()
    batchnorm = model.head.classifier[0]
    for buffer in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(batchnorm, buffer), file[f"after/head.1.{buffer}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_logits_and_gradients_of_the_attentive_classifier(name, golden, config):
    file, told = golden(name), config(name)
    prefixed = {f"module.{key}": tensor for key, tensor in below(file, "state/").items()}
    foreign = vp.read_foreign({"classifiers": [prefixed], "epoch": 3}, "vjepa2", heads=told["num_heads"])
    kind: Any = read_head(foreign.head)
    assert (kind.depth, kind.complete, foreign.num_classes) == (told["depth"], told["complete_block"], 5)
    head = AttentiveHead(told["embed_dim"], 5, kind)
    head.load_state_dict({key.removeprefix("head."): tensor for key, tensor in foreign.tuned.items()}, strict=True)
    logits = head(file["input"])
    assert (logits - file["logits"]).abs().max() <= 1e-5
    logits.square().sum().backward()
    theirs = below(file, "grad/")
    ours = {key.replace("classifier.", "linear.").replace("pool.", "pooler."): p for key, p in head.named_parameters()}
    assert ours.keys() == theirs.keys()
    for key, parameter in ours.items():
        gradient, wanted = parameter.grad, theirs[key]
        if key.endswith(("kv.bias", "qkv.bias")):  # that of keys is zero but for rounding
            part = len(wanted) // (2 if key.endswith(".kv.bias") else 3)
            keys = slice(0, part) if key.endswith(".kv.bias") else slice(part, 2 * part)
            assert gradient is not None
            assert gradient[keys].abs().max() <= 1e-5 * wanted.abs().max()
            gradient, wanted = gradient.clone(), wanted.clone()
            gradient[keys] = wanted[keys] = 0.0
        compare(gradient, wanted)


@pytest.mark.parametrize("name", ["vjepa2_attentive_pooler_q"])
def test_the_pooler_takes_several_queries(name, golden, config):
    file, told = golden(name), config(name)
    kind = AttentivePooler(heads=told["num_heads"], depth=told["depth"])
    pool: nn.Module = AttentivePool(told["embed_dim"], kind, queries=told["num_queries"])
    pool.load_state_dict(below(file, "state/"), strict=True)
    output = pool(file["input"])
    assert (output - file["output"]).abs().max() <= 1e-5
    output.square().sum().backward()
    for key, parameter in pool.named_parameters():
        if not key.endswith("kv.bias"):
            compare(parameter.grad, file[f"grad/{key}"])


def small_classifiers(count: int = 3) -> dict[str, Any]:
    """A file as evals/video_classification_frozen saves it."""
    heads = [AttentiveHead(8, 3, AttentivePooler(heads=2)) for _ in range(count)]
    renamed = [
        {key.replace("pool.", "module.pooler.").replace("classifier.", "module.linear."): t for key, t in s.items()}
        for s in (head.state_dict() for head in heads)
    ]
    return {"classifiers": renamed, "opt": [{}], "epoch": 1}


def test_the_number_chooses_one_of_the_classifiers_in_the_file():
    data = small_classifiers()
    for number in range(3):
        found = vp.read_foreign(data, "vjepa2", heads=2, classifier=number)
        assert torch.equal(found.tuned["head.classifier.weight"], data["classifiers"][number]["module.linear.weight"])
    with pytest.raises(ValueError, match="holds classifiers 0 to 2; got classifier=3"):
        vp.read_foreign(data, "vjepa2", heads=2, classifier=3)


def test_a_classifier_goes_onto_a_backbone_of_its_width():
    model: Any = vp.create_backbone(
        "vit_tiny_patch16_224", num_classes=0, embed_dim=8, depth=1, num_heads=2, img_size=32
    )
    foreign = vp.read_foreign(small_classifiers(1), "vjepa2", heads=2)
    vp.attach(vp.replace_head(model, foreign.head, foreign.num_classes), vp.LinearProbe())
    vp.load_tuned(model, foreign.tuned)
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_keys_of_other_code_are_refused(golden):
    with pytest.raises(ValueError, match="not a V-JEPA 2 classifier file: cannot explain extra"):
        vp.read_foreign({**small_classifiers(1)["classifiers"][0], "extra": torch.zeros(1)}, "vjepa2")
    with pytest.raises(ValueError, match=r"not a complete ep file: head\.0\.cls_token is missing"):
        vp.read_foreign({"head.weight": torch.zeros(1)}, "ep")
    state = official_model(golden("ep"))
    with pytest.raises(ValueError, match="cannot explain other"):
        vp.read_foreign({**state, "other": torch.zeros(1)}, "ep")
    with pytest.raises(ValueError, match=r"shape of head\.2\.weight"):
        vp.read_foreign({**state, "head.2.weight": torch.zeros(5, 7)}, "ep")
    with pytest.raises(ValueError, match="gives 32 channels, which do not divide the width 48"):
        vp.read_foreign({**state, "head.0.v.weight": torch.zeros(32, 48)}, "ep")
