"""Files of DTL and DTL+: golden parity, what the file cannot tell, errors."""

import pytest
import torch
from support.golden_file import Golden
from torch import Tensor

import vision_peft as vp

GOLDEN = {
    "dtl": vp.DTL(rank=2, fed=(0, 1), added=(1,)),
    "dtl_plus": vp.DTL(rank=3, kernel=3, fed=(0, 1), added=(0, 1)),
    "dtl_plus_k4": vp.DTL(rank=2, kernel=4, beta=1.5, fed=(0, 1), added=(0, 1)),
}


def read(file: Golden, state: dict[str, Tensor] | None = None):
    told = {"added": file.config["add_after_blocks"], "beta": file.config["beta"]}
    return vp.read_foreign(file.state if state is None else state, "dtl", **told)


def official_name(ours: str) -> str:
    if ours.endswith("dtl_output.conv.weight"):
        return "lora_fusion.weight"
    return ours.replace("blocks.", "lora_dict.").replace(".dtl.", ".lora_")


def test_no_golden_file_of_this_source_is_left_out(shared):
    assert {path.stem for path in (shared / "golden").glob("dtl*")} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_and_gradients_are_those_of_the_official_code(name, shared):
    file = Golden(shared / "golden" / f"{name}.safetensors")
    foreign = read(file)
    assert foreign.method == GOLDEN[name]
    model = vp.attach(file.backbone(), GOLDEN[name])
    vp.load_tuned(model, foreign.tuned)
    logits = model.eval()(file.input)
    assert (logits - file.logits).abs().max() <= 1e-5
    logits.square().sum().backward()
    tuned = dict(vp.tuned_parameters(model))
    assert {official_name(ours) for ours in tuned} == set(file.gradients)
    for ours, parameter in tuned.items():
        wanted = file.gradients[official_name(ours)]
        assert parameter.grad is not None
        assert (parameter.grad - wanted).norm() <= 1e-4 * wanted.norm(), ours


def official(blocks: tuple[int, ...] = (0, 1), dim: int = 6, rank: int = 2) -> dict[str, Tensor]:
    state = {f"lora_dict.{i}.lora_A": torch.ones(rank, dim) for i in blocks}
    return state | {f"lora_dict.{i}.lora_B": torch.ones(dim, rank) for i in blocks}


def test_what_the_file_cannot_tell_must_be_given():
    with pytest.raises(ValueError, match=r'needs the keyword added \(.*"last 6" of 12 in all.*beta \(.*100.0 in all'):
        vp.read_foreign(official(), "dtl")


def test_blocks_without_a_side_path_are_not_fed():
    foreign = vp.read_foreign(official((1, 4)), "dtl", added="last 2", beta=100)
    assert foreign.method == vp.DTL(fed=(1, 4), added="last 2")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"blocks.0.norm1.weight": torch.ones(6)}, "not a DTL file: cannot explain blocks.0.norm1.weight"),
        ({"lora_dict.1.lora_A": torch.ones(3, 6)}, r"shape of lora_dict.1.lora_A: wanted \(2, 6\), got \(3, 6\)"),
        ({"lora_dict.1.lora_B": torch.ones(2, 6)}, r"shape of lora_dict.1.lora_B: wanted \(6, 2\), got \(2, 6\)"),
        ({"lora_fusion.weight": torch.ones(6, 1, 3, 4)}, r"wanted a square kernel, got \(6, 1, 3, 4\)"),
        ({"lora_fusion.weight": torch.ones(5, 1, 3, 3)}, r"wanted \(6, 1, any, any\), got \(5, 1, 3, 3\)"),
        ({"lora_dict.2.lora_A": torch.ones(2, 6)}, "not a complete dtl file: lora_dict.2.lora_B is missing"),
    ],
)
def test_other_tensors_are_an_error_that_names_them(change, reason):
    with pytest.raises(ValueError, match=reason):
        vp.read_foreign({**official(), **change}, "dtl", added="all", beta=100)


def test_a_file_without_a_side_path_is_refused():
    with pytest.raises(ValueError, match=r"not a DTL file: wanted lora_dict\.0\.lora_A"):
        vp.read_foreign({"head.weight": torch.ones(3, 6)}, "dtl", added="all", beta=100)
