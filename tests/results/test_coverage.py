"""The script that counts which names of timm take which methods: what it counts, and what it would notice."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support.families import images, tiny

import vision_peft as vp

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "results" / "coverage.py"


@pytest.fixture(scope="module")
def script() -> Any:
    return runpy.run_path(str(SCRIPT), run_name="coverage")


def test_586_names_count_as_transformers(script):
    names = list(script["list_names"](script["MODULES"]))
    assert len({name for _, name in names}) == len(names)
    if timm.__version__ == "1.0.31":
        assert len(names) == 586


def test_a_kind_is_classes_and_switches_and_no_sizes(script):
    make = script["create_meta"]
    flat = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    vit = script["describe_kind"](make("vit_tiny_patch16_224"))
    assert vit == script["describe_kind"](make("vit_tiny_patch16_224", **flat, img_size=32))
    assert vit == script["describe_kind"](make("vit_base_patch32_224"))
    assert vit != script["describe_kind"](make("vit_tiny_patch16_224", qkv_bias=False))
    assert vit != script["describe_kind"](make("vit_base_patch16_clip_224"))


def test_a_method_that_fits_has_no_reason_and_one_that_does_not_has_one(script):
    model = tiny("sam")
    assert script["run"](model, images(model), vp.VPT()) is None
    assert "no sequence" in script["run"](model, images(model), vp.PromptTuning())
    assert script["attach_only"](model, vp.BitFit()) is None


def test_an_inexact_detach_would_be_noticed(script, monkeypatch):
    model = tiny("sam")
    monkeypatch.setattr(vp, "detach", lambda model: model)
    assert script["attach_only"](model, vp.VPT()) == "detach left another model"


def test_a_method_that_moves_nothing_would_be_noticed(script, monkeypatch):
    model = tiny("sam")
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: None)
    assert "0 tensors moved" in script["run"](model, images(model), vp.VPT())
