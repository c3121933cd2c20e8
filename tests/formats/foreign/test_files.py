"""Files that the official code saves, and files that only pretend to be: containers, hostile and damaged ones."""

import argparse
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from support.official_tuned import official_adaptformer, official_prompts

import vision_peft as vp


def test_a_container_with_a_namespace_loads_as_plain_data(tmp_path):
    state = official_adaptformer()
    arguments = argparse.Namespace(ffn_num=2, lr=0.05, data_path=None, nested=[1, {"a": True}])
    torch.save({"model": state, "args": arguments, "epoch": 99}, tmp_path / "checkpoint-99.pth")
    foreign = vp.read_foreign(tmp_path / "checkpoint-99.pth", "adaptformer")
    assert foreign.method == vp.AdaptFormer(bottleneck=2)
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = vp.read_foreign(state, "adaptformer").build(2)(image)
    assert torch.equal(foreign.build(2)(image), expected)


@pytest.mark.parametrize("wrap", ["model", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_containers_and_the_prefix_of_ddp_are_unwrapped(wrap, prefix, tmp_path):
    state = {f"{prefix}{name}": tensor for name, tensor in official_adaptformer().items()}
    torch.save({wrap: state} if wrap else state, tmp_path / "file.pth")
    assert vp.read_foreign(tmp_path / "file.pth", "adaptformer").num_classes == 3


def test_a_safetensors_file_loads(tmp_path):
    safetensors.torch.save_file(official_adaptformer(), tmp_path / "file.safetensors")
    assert vp.read_foreign(str(tmp_path / "file.safetensors"), "adaptformer").num_classes == 3


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_prompts_as_numpy_arrays_load_as_plain_data(dtype, tmp_path):
    prompts = {name: array.astype(dtype) for name, array in official_prompts().items()}
    torch.save(prompts, tmp_path / "prompt_ep100.pth")
    foreign = vp.read_foreign(tmp_path / "prompt_ep100.pth", "vpt")
    assert foreign.method == vp.VPT(tokens=3, deep=True)
    assert (foreign.backbone, foreign.num_classes) == (None, 0)
    model = vp.attach(vp.read_foreign(official_adaptformer(), "adaptformer").build(2), vp.VPT(tokens=3))
    both = {**vp.tuned_state_dict(model), **foreign.tuned}
    vp.load_tuned(model, both)
    first = torch.from_numpy(prompts["shallow_prompt"][0].astype("float32"))
    assert torch.equal(model.get_parameter("blocks.0.attn.prompts"), first)


def test_shallow_prompts_alone_are_vpt_shallow():
    foreign = vp.read_foreign({"shallow_prompt": official_prompts()["shallow_prompt"]}, "vpt")
    assert foreign.method == vp.VPT(tokens=3, deep=False)
    assert list(foreign.tuned) == ["norm_pre.prompts"]


def test_prompts_of_another_depth_do_not_load_onto_a_model(tmp_path):
    foreign = vp.read_foreign(official_prompts(depth=3), "vpt")
    model: Any = vp.read_foreign(official_adaptformer(depth=2), "adaptformer").build(2)
    vp.attach(vp.detach(model), foreign.method)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"unexpected: blocks.2.attn.prompts"):
        vp.load_tuned(model, foreign.tuned, head="keep")


class Malicious:
    """Pickles to a call of ``os.system``."""

    def __init__(self, marker: Path) -> None:
        self.command = f"touch {marker}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("place", ["top", "in model", "in args"])
def test_a_malicious_pickle_is_refused_and_its_code_does_not_run(place, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    evil: Any = Malicious(marker)
    content = {
        "top": evil,
        "in model": {"model": {**official_adaptformer(), "x": evil}},
        "in args": {"model": official_adaptformer(), "args": argparse.Namespace(x=evil)},
    }[place]
    torch.save(content, path)
    with pytest.raises(ValueError, match="was refused: besides tensors it wants to load") as error:
        vp.read_foreign(path, "adaptformer")
    assert str(path) in str(error.value)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_malicious_bare_pickle_is_refused_too(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"x": Malicious(marker)}))
    with pytest.raises(ValueError, match="is damaged or not a torch file"):
        vp.read_foreign(path, "vpt")
    assert not marker.exists()


def test_the_allowed_types_do_not_stay_allowed(tmp_path):
    torch.save({"model": official_adaptformer(), "args": argparse.Namespace()}, tmp_path / "file.pth")
    vp.read_foreign(tmp_path / "file.pth", "adaptformer")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("content", [b"", b"garbage", b"<html>404</html>", b"PK\x03\x04broken zip"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused_with_its_path(content, suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is (truncated|damaged) or not a") as error:
        vp.read_foreign(path, "adaptformer")
    assert str(path) in str(error.value)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    torch.save(official_adaptformer(), tmp_path / "file.pth")
    data = (tmp_path / "file.pth").read_bytes()
    (tmp_path / "file.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"is (truncated|damaged) or not a"):
        vp.read_foreign(tmp_path / "file.pth", "adaptformer")


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"is (truncated|damaged) or not a"):
        vp.read_foreign(tmp_path / "file.pth", "adaptformer")


def test_a_checkpoint_that_is_no_mapping_is_refused(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "file.pth")
    with pytest.raises(ValueError, match="holds a list, wanted a mapping of names to tensors"):
        vp.read_foreign(tmp_path / "file.pth", "adaptformer")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere\.pth"):
        vp.read_foreign(tmp_path / "nowhere.pth", "vpt")


@pytest.mark.parametrize(
    ("typo", "meant"), [("adaptfomer", "adaptformer"), ("vtp", "vpt"), ("VPT", "vpt"), ("q", None)]
)
def test_an_unknown_source_gets_a_suggestion_and_the_list(typo, meant):
    with pytest.raises(ValueError, match=f"unknown source {typo!r}") as error:
        vp.read_foreign({}, typo)
    assert ("did you mean" in str(error.value)) == (meant is not None)
    assert all(name in str(error.value) for name in ("adaptformer", "hf_peft", "ssf", "vpt"))


@pytest.mark.parametrize("source", ["convpass", "fact", "repadapter"])
def test_a_keyword_that_is_needed_is_named_with_its_meaning_and_an_example(source):
    with pytest.raises(ValueError, match="needs the keyword scale") as raised:
        vp.read_foreign({"head.weight": torch.zeros(3, 2)}, source)
    assert f"{source} needs the keyword scale (s of the task" in str(raised.value)
    assert str(raised.value).endswith(f"read_foreign(file, '{source}', scale=...), for instance scale=0.1")


def test_an_unknown_keyword_gets_a_suggestion_and_the_known_ones():
    with pytest.raises(ValueError, match=r"adaptformer takes no keyword 'scal' \(did you mean scale\?\)"):
        vp.read_foreign(official_adaptformer(), "adaptformer", scal=0.1)
    with pytest.raises(ValueError, match=r"vpt takes no keyword 'tokens': it takes dropout$"):
        vp.read_foreign(official_prompts(), "vpt", tokens=3)
    with pytest.raises(ValueError, match=r"ssf takes no keyword 'scale': it takes none$"):
        vp.read_foreign({}, "ssf", scale=1.0)


def test_all_wrong_keywords_are_named_at_once():
    with pytest.raises(ValueError, match=r"'scales'.*'colour'.*needs the keyword scale"):
        vp.read_foreign({}, "convpass", scales=0.1, colour=3)


@pytest.mark.parametrize("source", ["adapter_folder", "adapter_info", "foreign", "__init__"])
def test_other_modules_of_the_folder_are_no_sources(source):
    with pytest.raises(ValueError, match="unknown source"):
        vp.read_foreign({}, source)


@pytest.mark.parametrize("key", ["blocks.0.surprise.weight", "decoder.weight", "blocks.1.adaptmlp.gate"])
def test_keys_that_nothing_explains_are_an_error_that_names_them(key):
    with pytest.raises(ValueError, match=f"not a AdaptFormer file: cannot explain {key}"):
        vp.read_foreign({**official_adaptformer(), key: torch.zeros(1)}, "adaptformer")
    with pytest.raises(ValueError, match=f"cannot explain {key}"):
        vp.read_foreign({**official_prompts(), key: torch.zeros(1)}, "vpt")


def test_a_file_of_the_other_source_is_refused():
    with pytest.raises(ValueError, match="wanted blocks"):
        vp.read_foreign(official_prompts(), "adaptformer")
    with pytest.raises(ValueError, match="not a VPT file: cannot explain"):
        vp.read_foreign(official_adaptformer(), "vpt")


def test_blocks_with_a_gap_are_refused():
    state = {name.replace("blocks.1.", "blocks.5."): tensor for name, tensor in official_adaptformer().items()}
    with pytest.raises(ValueError, match=r"without gaps, got 0, 5"):
        vp.read_foreign(state, "adaptformer")


def test_adapters_and_prompts_in_one_file_are_refused():
    state = {**official_adaptformer(), **{f"embeddings.{i}": torch.zeros(1, 3, 8) for i in range(2)}}
    with pytest.raises(ValueError, match="holds both adaptmlp and prompt tensors"):
        vp.read_foreign(state, "adaptformer")


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form must be one of 'parallel', 'sequential'; got 'serial'"):
        vp.read_foreign(official_adaptformer(), "adaptformer", form="serial")


def test_a_file_without_a_backbone_cannot_build_a_model():
    with pytest.raises(ValueError, match="holds no backbone: create one with create_backbone"):
        vp.read_foreign(official_prompts(), "vpt").build(num_heads=2)


def test_positions_that_are_no_square_need_the_image_size():
    state = {**official_adaptformer(), "pos_embed": torch.zeros(1, 7, 8)}
    foreign = vp.read_foreign(state, "adaptformer")
    with pytest.raises(ValueError, match=r"6 positions are no square image: give img_size=\(height, width\)"):
        foreign.build(num_heads=2)
    model = foreign.build(num_heads=2, img_size=(8, 12))
    assert model(torch.zeros(1, 3, 8, 12)).shape == (1, 3)


def test_a_backbone_tensor_that_is_missing_is_named_at_build():
    state = official_adaptformer()
    del state["blocks.1.norm2.bias"]
    with pytest.raises(ValueError, match=r"backbone tensors do not fit: missing blocks\.1\.norm2\.bias"):
        vp.read_foreign(state, "adaptformer").build(num_heads=2)


def test_reading_changes_nothing_in_the_mapping_it_was_given():
    state = official_adaptformer()
    names = list(state)
    vp.read_foreign(state, "adaptformer")
    assert list(state) == names


def test_a_built_model_saves_and_loads_as_an_adapter(tmp_path):
    foreign = vp.read_foreign(official_adaptformer(), "adaptformer")
    model = foreign.build(num_heads=2)
    fresh = vp.detach(foreign.build(num_heads=2))
    vp.load_adapter(fresh, vp.save_adapter(model, tmp_path))
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(fresh.eval()(image), model(image))


@pytest.mark.parametrize("key", ["blocks.0.attn.k_proj.weight", "blocks.1.attn.v_proj.bias"])
def test_half_a_projection_is_an_incomplete_file(key):
    state = official_adaptformer()
    del state[key]
    with pytest.raises(ValueError, match=f"not a complete adaptformer file: {key} is missing"):
        vp.read_foreign(state, "adaptformer")


@pytest.mark.parametrize("key", ["patch_embed.proj.weight", "pos_embed", "blocks.0.fc1.weight"])
def test_a_backbone_whose_architecture_cannot_be_read_is_refused_at_build(key):
    state = official_adaptformer()
    del state[key]
    with pytest.raises(ValueError, match=r"missing|holds no backbone"):
        vp.read_foreign(state, "adaptformer").build(num_heads=2)


@pytest.mark.parametrize("num_heads", [3, 0, 16, -2])
def test_a_number_of_heads_that_does_not_divide_the_width_is_refused(num_heads):
    with pytest.raises(ValueError, match=f"num_heads must divide the width 8 of the backbone; got {num_heads}"):
        vp.read_foreign(official_adaptformer(), "adaptformer").build(num_heads)


def test_an_image_size_that_does_not_fit_the_positions_is_refused():
    with pytest.raises(ValueError, match="backbone tensors do not fit: of another shape pos_embed is"):
        vp.read_foreign(official_adaptformer(), "adaptformer").build(num_heads=2, img_size=16)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_pickle_raises_a_value_error_whatever_its_opcodes_stumble_over(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "file.pth"
    torch.save(official_adaptformer(depth=1), path, _use_new_zipfile_serialization=False)
    intact, outcomes = path.read_bytes(), set()
    for _ in range(60):
        data = bytearray(intact)
        for at in random.integers(0, 3000, size=3):
            data[at] = random.integers(0, 256)
        path.write_bytes(bytes(data))
        try:
            vp.read_foreign(path, "adaptformer")
            outcomes.add("read")  # the damage hit a number
        except ValueError:
            outcomes.add("refused")
    assert "refused" in outcomes
