"""Ensembles of prompts against their members run one by one, on every family that takes input tokens."""

import copy
import pickle
from typing import Any

import pytest
import torch
from methods.test_prompt_tuning import entering, every_flat_family, prompts_of
from support.families import FLAT, four_sizes, images, randomise_tuned, tiny
from support.matrix import parametrize_compiled

import vision_peft as vp
from vision_peft.methods.prompt_tuning import Vote
from vision_peft.tuning.backbone import frames_in_batch
from vision_peft.tuning.input_tokens import prompt_insertion_module


def ensemble(family: str, vote: str = "mean", members: int = 3) -> Any:
    model = vp.attach(tiny(family), vp.PromptTuning(tokens=2, ensemble=members, vote=vote))
    randomise_tuned(model)
    return model


def alone(family: str, model: Any, x: torch.Tensor) -> torch.Tensor:
    """Logits (N B C) of the members, each in a model of its own."""
    logits = []
    for prompt in prompts_of(model):
        single = vp.attach(tiny(family), vp.PromptTuning(tokens=2))
        state = vp.tuned_state_dict(model)
        vp.load_tuned(single, {n: prompt[None] if n.endswith("soft_prompts") else t for n, t in state.items()})
        logits.append(single.eval()(x))
    return torch.stack(logits)


@every_flat_family
def test_training_returns_the_logits_of_every_prompt_and_evaluation_their_mean_probability(family):
    model = ensemble(family)
    x = images(model)
    each = alone(family, model, x)
    torch.testing.assert_close(model(x), each.softmax(-1).mean(0).log(), rtol=1e-4, atol=1e-5)
    vp.train_mode(model)
    torch.testing.assert_close(model(x), each.flatten(0, 1), rtol=1e-4, atol=1e-5)


def test_a_majority_wins_and_the_mean_probability_decides_a_tie():
    vote = Vote(3, "majority").eval()
    two_against_one = torch.tensor([[0.1, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 9.0, 0.0]])
    tie = torch.tensor([[5.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    scores = vote(torch.stack([two_against_one, tie], 1).flatten(0, 1))
    assert scores.argmax(-1).tolist() == [0, 0]
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(2))
    assert Vote(3, "mean").eval()(two_against_one).argmax(-1).tolist() == [1]


@parametrize_compiled(FLAT)
def test_an_ensemble_survives_saving_copies_checkpointing_compile_and_detach(family, tmp_path):
    plain = tiny(family)
    x = images(plain)
    model = ensemble(family)
    expected = model(x)
    vp.save_adapter(model, tmp_path)
    assert torch.equal(vp.load_adapter(tiny(family), tmp_path)(x), expected)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    model.set_grad_checkpointing(True)
    torch.testing.assert_close(model(x), expected)
    model.set_grad_checkpointing(False)
    with pytest.raises(ValueError, match="cannot merge PromptTuning"):
        vp.merge(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
    vp.detach(model)
    assert type(model) is type(plain)
    vp.load_tuned(model, {n: t for n, t in plain.state_dict().items() if n.startswith("head")})
    assert torch.equal(model(x), plain(x))


@every_flat_family
def test_every_prompt_of_an_ensemble_and_the_shared_head_learn_and_nothing_else(family):
    model = ensemble(family)
    vp.train_mode(model)
    model(images(model)).square().sum().backward()
    tuned = dict(vp.tuned_parameters(model))
    gradient: Any = prompt_insertion_module(model).soft_prompts.grad  # pyright: ignore[reportAttributeAccessIssue]
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tuned.values())
    assert [n for n, p in model.named_parameters() if n not in tuned and p.grad is not None] == []


@parametrize_compiled(FLAT)
def test_compiled_in_training_an_ensemble_gives_the_logits_of_every_prompt(family):
    model = vp.train_mode(ensemble(family, members=2))
    x = images(model)
    expected = model(x)
    assert expected.shape == (4, 5)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)


@every_flat_family
def test_intermediates_of_an_ensemble_hold_all_prompts(family):
    model = ensemble(family, members=2)
    x = images(model)
    clip = four_sizes(x)
    for call in ({}, {"output_fmt": "NCHW"}):
        with pytest.raises(ValueError, match="pass output_fmt='NLC'"):
            model.forward_intermediates(clip, **call)
    features, sequences = model.forward_intermediates(clip, output_fmt="NLC")
    assert [s.shape for s in sequences] == [(4 * frames_in_batch(model), model.patch_embed.num_patches, 32)] * 2
    assert torch.equal(model.forward_intermediates(clip, None, False, False, False, "NLC")[0], features)
    members = model.forward_head(features).unflatten(0, (2, -1))
    torch.testing.assert_close(members.softmax(-1).mean(0).log(), model(x), rtol=1e-4, atol=1e-5)


def test_an_ensemble_without_a_classifier_averages_features():
    model = ensemble("vit")
    x = images(model)
    vp.replace_head(model, "linear", 7)
    assert model.eval()(x).shape == (2, 7)
    model.reset_classifier(0)
    assert model(x).shape == (2, 32)


def test_a_method_that_draws_patch_tokens_can_be_attached_to_an_ensemble():
    model = ensemble("vit")
    batch = (images(model, batch=4), torch.tensor([0, 1, 2, 1]))
    tokens = entering(tiny("vit"), batch[0]).flatten(0, 1)
    vp.attach(model, vp.PTuning(tokens=3, init="patches", encoder="none"), samples=[batch])
    drawn: Any = prompt_insertion_module(model).pseudo_tokens
    torch.testing.assert_close((drawn[:, None] - tokens).norm(dim=-1).amin(1), torch.zeros(3), rtol=0, atol=1e-4)


def test_an_ensemble_stacks_with_other_methods():
    model = ensemble("vit")
    vp.attach(vp.attach(model, vp.LoRA(rank=2)), vp.VPT(tokens=2))
    x = images(model)
    assert model.eval()(x).shape == (2, 5)
    vp.train_mode(model)
    assert model(x).shape == (6, 5)
    with pytest.raises(ValueError, match="already attached"):
        vp.attach(model, vp.PromptTuning())
