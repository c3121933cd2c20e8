"""Options of attentive heads: those that are refused, and the line in which files record them."""

import pytest
from support.block_inputs import snapshot
from support.families import tiny

import vision_peft as vp
from vision_peft.tuning.head_kinds import AttentivePooler, head_text, read_head


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("attentive", {"queries": 5}, "cuts 32 channels into reduce \\* queries = 1 \\* 5 parts"),
        ("attentive", {"queries": 16, "reduce": 4}, "queries = 4 \\* 16 parts"),
        ("attentive", {"queries": 0}, "queries must be at least 1"),
        ("attentive", {"tokens": "cls"}, "tokens must be one of patch, all; got 'cls'"),
        ("attentive", {"query": 4}, "no option 'query', did you mean 'queries'|no option 'query'.*queries"),
        ("attentive", {"queries": "4"}, "queries must be a whole number"),
        ("attentive", {"time": "sinusoid"}, "VisionTransformer has one time step"),
        ("attentive_pooler", {"heads": 5}, "5 heads of an attentive_pooler do not divide 32 channels"),
        ("attentive_pooler", {"depth": 13}, "depth at most 12"),
        ("attentive_pooler", {"mlp_ratio": 0.0}, "mlp_ratio must be above 0"),
        ("attentive_pooler", {"queries": 2}, "no option 'queries'"),
        ("linear", {"queries": 2}, "a head of kind linear has no options"),
        ("attention", {}, "head must be one of 'attentive'"),
        ("", {}, "head must be one of"),
        ("attentive queries", {}, "queries must be a whole number"),
    ],
)
def test_an_impossible_head_is_refused_before_anything_changes(kind, options, reason):
    model = tiny("vit")
    before = snapshot(model)
    with pytest.raises(ValueError, match=reason):
        vp.replace_head(model, kind, 3, **options)
    assert snapshot(model) == before
    assert model.num_classes == 5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "attentive"),
        ({"queries": 8, "tokens": "all"}, "attentive tokens=all queries=8"),
        ({"norm": False, "time": "sinusoid", "reduce": 2}, "attentive norm=false time=sinusoid reduce=2"),
    ],
)
def test_a_head_is_written_in_one_line_and_read_again(options, text):
    head = read_head("attentive", options)
    assert head_text(head) == text
    assert read_head(text) == head
    assert read_head("attentive_pooler mlp_ratio=2.5 depth=2 complete=false") == AttentivePooler(
        mlp_ratio=2.5, depth=2, complete=False
    )
