"""AdaLoRA: the update, and the budget of ranks against HF peft's allocation."""

from typing import Any

import pytest
import torch
from support.families import images, randomise_tuned, tiny
from support.peft_golden import by_our_names, golden_model, read_golden
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning import graft, record

OFFICIAL = vp.AdaLoRA(rank=5, target_rank=2, alpha=6, targets=("qkv", "fc2"), warmup=1 / 8, final=2 / 8)


def rows(model: nn.Module) -> list[int]:
    """Rows of every layer whose value is not 0."""
    return [int((t != 0).sum()) for n, t in sorted(vp.tuned_state_dict(model).items()) if n.endswith("adalora.E")]


def test_eight_steps_allocate_as_hf_peft_does(shared):
    golden = read_golden(shared / "golden" / "peft_adalora_allocated")
    model = vp.attach(golden_model(golden), OFFICIAL)
    state = vp.tuned_state_dict(model)
    for name, tensor in by_our_names(golden, "start/").items():
        state[name].copy_(tensor)
    optimizer = torch.optim.SGD([p for _, p in vp.tuned_parameters(model)], lr=0.02)
    for step in range(1, 9):
        nn.functional.cross_entropy(model(golden["input"]), golden["target"]).backward()
        optimizer.step()
        vp.finish_step(model, step, 8)
        optimizer.zero_grad()
        assert rows(model) == golden[f"alive{step}"].tolist(), step
    logits = model(golden["input"])
    assert (logits - golden["logits_in_memory"]).abs().max() <= 1e-5
    logits.square().sum().backward()
    theirs = by_our_names(golden, "grad/")
    for name, parameter in vp.tuned_parameters(model):
        assert parameter.grad is not None
        assert (parameter.grad - theirs[name]).norm() <= 1e-4 * theirs[name].norm(), name


def steps(model: Any, numbers: range, total: int, seed: int = 0) -> list[list[int]]:
    """Rows after each step of a training."""
    optimizer = torch.optim.AdamW([p for _, p in vp.tuned_parameters(model)], lr=0.02)
    found = []
    for step in numbers:
        x = images(model, batch=3, seed=seed + step)
        nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
        vp.finish_step(model, step, total)
        optimizer.zero_grad()
        found.append(rows(model))
    return found


def test_the_budget_falls_as_a_cubic_and_stays():
    method = vp.AdaLoRA(rank=4, target_rank=1.5, targets=("proj", "fc1"), warmup=0.1, final=0.3)
    model = vp.attach(tiny("vit"), method)
    budgets = [sum(found) for found in steps(model, range(1, 21), 20)]
    # 4 layers of 4 rows down to 6 rows, from step 2 to step 14
    expected = [int(10 * (1 - (step - 2) / 12) ** 3 + 6) for step in range(3, 15)]
    assert budgets[:2] == [16, 16]
    assert budgets[2:14] == expected
    assert budgets[14:] == [6] * 6
    last = steps(model, range(15, 18), 20)
    assert last[0] == last[1] == last[2]


def test_between_allocations_rows_may_come_back():
    model = vp.attach(tiny("vit"), vp.AdaLoRA(rank=4, target_rank=1, targets=("proj",), warmup=0, final=0.2, every=3))
    budgets = [sum(found) for found in steps(model, range(1, 16), 15)]
    assert budgets[2] < 8  # step 3
    assert budgets[3] == 8  # step 4: every value moves again
    assert budgets[11:] == [2] * 4


def test_a_budget_of_all_rows_drops_none():
    model = vp.attach(tiny("vit"), vp.AdaLoRA(rank=2, target_rank=2, targets=("proj",)))
    assert steps(model, range(1, 11), 10)[-1] == [2, 2]


def test_a_skipped_last_allocation_is_made_up_for():
    model = vp.attach(tiny("vit"), vp.AdaLoRA(rank=4, target_rank=1, targets=("proj",), warmup=0, final=0.5))
    steps(model, range(1, 5), 10)
    assert sum(steps(model, range(6, 7), 10)[0]) == 2  # step 5 fixes the rows


def test_the_scores_are_those_of_the_equation():
    method = vp.AdaLoRA(rank=3, target_rank=1, targets=("fc1",), beta1=0.7, beta2=0.9)
    model = vp.attach(tiny("vit"), method)
    randomise_tuned(model)
    layer: Any = model.get_submodule("blocks.0.mlp.fc1")
    averages = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in layer.adalora.named_parameters()}
    for step in range(1, 4):
        model(images(model, seed=step)).square().sum().backward()
        for name, p in layer.adalora.named_parameters():
            mean, wavering = averages[name]
            now = (p * p.grad).detach().abs()
            averages[name] = [mean := 0.7 * mean + 0.3 * now, 0.9 * wavering + 0.1 * (now - mean).abs()]
        vp.finish_step(model, step, 100)
        model.zero_grad()
    A, E, B = (mean * wavering for mean, wavering in (averages[name] for name in "AEB"))
    torch.testing.assert_close(layer.adalora_scores.of_rows(), E[:, 0] + A.mean(1) + B.mean(0))


def test_what_an_adapter_holds_is_the_update_and_a_training_state_holds_the_scores(tmp_path):
    model = vp.attach(tiny("vit"), vp.AdaLoRA(rank=3, target_rank=1, targets=("proj",), warmup=0))
    steps(model, range(1, 6), 5)
    vp.save_adapter(model, tmp_path)
    loaded = vp.load_adapter(tiny("vit"), tmp_path)
    assert torch.equal(loaded(images(model)), model(images(model)))
    assert rows(loaded) == rows(model) != [3, 3]
    found = record.find(loaded)
    assert found is not None
    assert found.methods == [vp.AdaLoRA(rank=3, target_rank=1, targets=("proj",), warmup=0, allocate=False)]
    assert not [name for name in vp.tuned_state_dict(loaded) if "scores" in name]
    assert [name for name in vp.tuned_state_dict(model) if "scores" in name]
    vp.finish_step(loaded, 1, 1)  # allocates nothing
    twin = vp.attach(tiny("vit"), vp.AdaLoRA(rank=3, target_rank=1, targets=("proj",), warmup=0))
    vp.load_tuned(twin, vp.tuned_state_dict(model))
    assert steps(twin, range(5, 6), 5) == steps(model, range(5, 6), 5)


def test_the_update_is_b_times_the_scaled_rows_of_a():
    model = vp.attach(tiny("vit"), vp.AdaLoRA(rank=3, target_rank=1, alpha=5, targets=("fc1",), dropout=0.5))
    randomise_tuned(model)
    layer: Any = model.get_submodule("blocks.0.mlp.fc1")
    x, part = torch.randn(4, 32), layer.adalora
    assert part.scaling == 5 / (3 + 1e-5)
    update = part.B @ torch.diag(part.E[:, 0]) @ part.A * 5 / (3 + 1e-5)
    torch.testing.assert_close(layer(x), x @ (layer.weight + update).T + layer.bias)
    vp.train_mode(model)
    torch.manual_seed(0)
    y = layer(x)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(y, x @ layer.weight.T + layer.bias + dropped @ update.T)


def test_it_starts_from_small_factors_and_no_values():
    model = vp.attach(tiny("eva02_base"), vp.AdaLoRA(rank=16, target_rank=8))
    names = {name.rpartition(".adalora")[0] for name, _ in vp.tuned_parameters(model) if "adalora" in name}
    assert names == {f"blocks.{i}.attn.{letter}_proj" for i in range(2) for letter in "qkv"}
    part: Any = model.get_submodule("blocks.0.attn.q_proj.adalora")
    assert (part.E == 0).all()
    assert [round(factor.std().item() / 0.02, 1) for factor in (part.A, part.B)] == [1.0, 1.0]


def test_steps_outside_of_the_training_are_refused_and_plain_models_have_nothing_to_do():
    model = tiny("vit")
    for step in (0, 6):
        with pytest.raises(ValueError, match=f"step must be between 1 and total_steps=5; got {step}"):
            vp.finish_step(model, step, 5)
    vp.finish_step(model, 1, 5)
    vp.finish_step(vp.attach(model, vp.LoRA(rank=2)), 1, 5)
    with pytest.raises(ValueError, match=r"wrapped in DataParallel: pass model.module"):
        vp.finish_step(nn.DataParallel(model), 1, 5)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"target_rank": 13}, "target_rank must be at most rank=12; got 13"),
        ({"target_rank": 0}, "target_rank must be a number above 0"),
        ({"warmup": 0.6, "final": 0.5}, "shares of one training; got 0.6"),
        ({"every": 0}, "every must be a number above 0"),
        ({"beta1": 1.0}, r"beta1 must lie in \[0, 1\)"),
        ({"targets": ("q",)}, "targets must be one of 'qkv', 'proj', 'fc1', 'fc2', 'all-linear'; got 'q'"),
        ({"targets": ("all-linear", "qkv")}, "all-linear includes all other targets"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.AdaLoRA(**fields)


def test_a_rank_above_the_width_is_refused_at_attach():
    model = tiny("vit")
    with pytest.raises(ValueError, match=r"rank=33 is above .* from 32 to 96 channels \(blocks.0.attn.qkv\)"):
        vp.attach(model, vp.AdaLoRA(rank=33))
    assert not list(graft.grafts(model))


def test_all_linear_on_swin_v2_leaves_out_what_is_too_narrow():
    model = vp.attach(tiny("swin_v2"), vp.AdaLoRA(rank=3, target_rank=1, targets=("all-linear",)))
    names = [name for name, _ in vp.tuned_parameters(model) if name.endswith("adalora.A")]
    assert len(names) == 4 * 4 + 1  # not the position MLPs, of 2 coordinates to 2 heads, but the merging


def _sizes(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in vp.tuned_state_dict(model).items() if "scores" in name}


def test_baking_drops_the_scores_in_place():
    model = vp.attach(tiny("vit"), vp.AdaLoRA(rank=3, target_rank=1))
    x = images(model)
    assert _sizes(model)
    expected = model(x)
    assert not _sizes(vp.bake(model))
    assert torch.equal(model(x), expected)
