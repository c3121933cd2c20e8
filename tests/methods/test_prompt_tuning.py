"""Prompt Tuning: its counts, what prompts start from, files and refusals."""

from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.families import FLAT, images, randomise_tuned, tiny

import vision_peft as vp
from vision_peft.tuning.input_tokens import prompt_insertion_module

every_flat_family = pytest.mark.parametrize("family", FLAT)


def prompts_of(model: Any) -> torch.Tensor:
    return prompt_insertion_module(model).soft_prompts.detach()  # pyright: ignore[reportReturnType, reportCallIssue]


def entering(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Patch tokens (B N D) that enter the first block of a plain model; those of all frames of a clip."""
    seen: list[torch.Tensor] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(x)
    handle.remove()
    return seen[0][:, model.num_prefix_tokens :].reshape(len(x), -1, seen[0].shape[-1])


@pytest.mark.parametrize(
    ("method", "figure"),
    [(vp.PromptTuning(), 15_360), (vp.PromptTuning(tokens=1), 768), (vp.PromptTuning(tokens=10, ensemble=4), 30_720)],
)
def test_a_prompt_has_width_times_tokens_parameters(method, figure):
    model = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    counts = vp.count_parameters(vp.attach(model, method))
    assert counts.trained == counts.stored == method.ensemble * method.tokens * 768 == figure


@every_flat_family
def test_one_prompt_is_shallow_prompt_tuning(family):
    model = vp.attach(tiny(family), vp.PromptTuning(tokens=3))
    randomise_tuned(model)
    other = vp.attach(tiny(family), vp.VPT(tokens=3, deep=False))
    state = {n.replace("soft_prompts", "prompts"): t for n, t in vp.tuned_state_dict(model).items()}
    vp.load_tuned(other, {n: t[0] if n.endswith("prompts") else t for n, t in state.items()})
    x = images(model)
    torch.testing.assert_close(model(x), other(x), rtol=1e-5, atol=1e-5)


def test_random_prompts_are_uniform_within_a_half():
    torch.manual_seed(0)
    prompts = prompts_of(vp.attach(timm.create_model("vit_base_patch16_224", depth=1), vp.PromptTuning(tokens=50)))
    assert prompts.abs().max() <= 0.5
    assert abs(prompts.std().item() - 1 / 12**0.5) < 0.005


@every_flat_family
def test_class_prompts_are_mean_patch_tokens_and_the_rest_is_drawn(family):
    model, plain = tiny(family), tiny(family)
    x, labels = images(model, batch=6), torch.tensor([1, 0, 1, 0, 0, 1])
    batches = [(x[:2], labels[:2], torch.arange(2)), (x[2:], labels[2:], torch.arange(4))]
    vp.attach(model, vp.PromptTuning(tokens=4, init="class_labels", images_per_class=2), samples=batches)
    tokens = entering(plain, x)
    (prompts,) = prompts_of(model)
    first_two = {0: [1, 3], 1: [0, 2]}
    for label, chosen in first_two.items():
        torch.testing.assert_close(prompts[label], tokens[chosen].mean((0, 1)), rtol=1e-4, atol=1e-5)
    distances = (prompts[2:, None] - tokens[:4].flatten(0, 1)).norm(dim=-1).amin(1)
    torch.testing.assert_close(distances, torch.zeros(2), rtol=0, atol=1e-4)


def test_with_more_classes_than_tokens_the_first_classes_give_prompts():
    model, plain = tiny("vit"), tiny("vit")
    x = images(model, batch=5)
    vp.attach(model, vp.PromptTuning(tokens=2, init="class_labels"), samples=[(x, torch.tensor([4, 3, 2, 1, 0]))])
    torch.testing.assert_close(prompts_of(model)[0], entering(plain, x)[[4, 3]].mean(1), rtol=1e-4, atol=1e-5)


def test_members_of_an_ensemble_start_from_images_of_their_own():
    model, plain = tiny("vit"), tiny("vit")
    x, labels = images(model, batch=4), torch.tensor([0, 0, 0, 0])
    method = vp.PromptTuning(tokens=1, init="class_labels", images_per_class=2, ensemble=2)
    vp.attach(model, method, samples=[(x, labels)])
    tokens = entering(plain, x)
    torch.testing.assert_close(prompts_of(model)[0, 0], tokens[[0, 2]].mean((0, 1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prompts_of(model)[1, 0], tokens[[1, 3]].mean((0, 1)), rtol=1e-4, atol=1e-5)


def test_sampling_leaves_the_modes_of_the_model_alone():
    model = tiny("vit").train()
    vp.attach(model, vp.PromptTuning(init="class_labels"), samples=[(images(model), torch.tensor([0, 1]))])
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("samples", [[], [torch.zeros(2, 3, 32, 32)], ["text"]])
def test_samples_that_are_no_batches_are_refused_and_leave_the_model_alone(samples):
    model = tiny("vit")
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match="samples"):
        vp.attach(model, vp.PromptTuning(init="class_labels"), samples=samples)
    assert list(model.state_dict()) == keys


def test_class_prompts_without_samples_are_refused_at_attach():
    with pytest.raises(ValueError, match="needs images to start its prompts from: pass"):
        vp.attach(tiny("vit"), vp.PromptTuning(init="class_labels"))


def test_a_loaded_adapter_needs_neither_samples_nor_the_file(tmp_path):
    save_file({"means": torch.randn(2, 32)}, tmp_path / "text.safetensors")
    for method, samples in [
        (vp.PromptTuning(tokens=3, init="class_labels"), [(images(tiny("vit")), torch.tensor([0, 1]))]),
        (vp.PromptTuning(tokens=3, init="file", init_file=str(tmp_path / "text.safetensors")), None),
    ]:
        model = vp.attach(tiny("vit"), method, samples=samples)
        vp.save_adapter(model, tmp_path / "adapter")
        (tmp_path / "text.safetensors").unlink(missing_ok=samples is not None) if samples is None else None
        x = images(model)
        assert torch.equal(vp.load_adapter(tiny("vit"), tmp_path / "adapter")(x), model(x))


def test_rows_of_a_file_come_first_and_the_rest_stays_random(tmp_path):
    means = torch.randn(2, 32) * 3
    save_file({"means": means}, tmp_path / "text.safetensors")
    method = vp.PromptTuning(tokens=4, init="file", init_file=str(tmp_path / "text.safetensors"))
    (prompts,) = prompts_of(vp.attach(tiny("vit"), method))
    assert torch.equal(prompts[:2], means)
    assert prompts[2:].abs().max() <= 0.5


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "is not a file"),
        (b"text", ValueError, "cannot be read as safetensors"),
        ({"means": torch.zeros(2, 31)}, ValueError, "as wide as the backbone"),
        ({"means": torch.full((2, 32), torch.nan)}, ValueError, "wanted one finite tensor"),
        ({"a": torch.zeros(2, 32), "b": torch.zeros(2, 32)}, ValueError, "wanted one finite tensor"),
    ],
)
def test_files_that_are_not_rows_of_the_width_are_refused(content, error, message, tmp_path):
    path = tmp_path / "text.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path)
    with pytest.raises(error, match=message):
        vp.attach(tiny("vit"), vp.PromptTuning(init="file", init_file=str(path)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": 0}, "tokens must"),
        ({"ensemble": 0}, "ensemble must"),
        ({"images_per_class": 0}, "images_per_class must"),
        ({"init": "text"}, "init must be one of"),
        ({"vote": "best"}, "vote must be one of"),
        ({"init": "file"}, "go together"),
        ({"init_file": "a.safetensors"}, "go together"),
        ({"init": "file", "init_file": "a.safetensors", "ensemble": 2}, "equal prompts"),
    ],
)
def test_impossible_fields_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        vp.PromptTuning(**fields)


def test_presets_differ_in_how_an_ensemble_decides():
    assert vp.PromptTuning.as_published(tokens=5) == vp.PromptTuning(tokens=5, ensemble=1)
    assert vp.PromptTuning.as_in_paper(ensemble=5) == vp.PromptTuning(ensemble=5, vote="majority")
