"""A mixed batch of adapters of every method gives the logits of each single adapter, on every family."""

import pytest
from support.banks import fill, mix, tune, worst_difference
from support.families import FAMILIES, tiny
from support.matrix import COVER, PRODUCT, fits

import vision_peft as vp

DEFAULT = ["vit", "beit", "beit_shared_bias", "frames", "swin_v2_cr"]  # that the default suite runs
PROMPTS = [vp.VPT(tokens=3, deep=False), vp.PromptTuning(tokens=3)]  # of one length: answered together
STACKS = [
    (vp.LoRA(rank=2, targets=("q", "k", "v")), vp.VPT(tokens=3)),
    (vp.VPT(tokens=3), vp.AdaptFormer(bottleneck=4), vp.NormTuning()),
    (vp.SSF(), vp.BitFit()),
    (vp.Houlsby(bottleneck=4, sigma=0.1), vp.AdaptFormer(bottleneck=4, form="sequential")),
    (vp.LST(reduction=4), vp.LoRA(rank=2)),
    (vp.AdaptFormer(bottleneck=4), vp.LST(reduction=4), vp.Convpass(bottleneck=4)),
]


def test_full_fine_tuning_alone_is_refused_for_a_bank():
    refused = {method.name for method, _ in PRODUCT} - {method.name for method, _ in sharing(PRODUCT)}
    assert refused == {"full"}


def sharing(cases):
    return [case for case in cases if not isinstance(case[0], vp.FullFineTune)]


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[] if family in DEFAULT else pytest.mark.matrix) for family in FAMILIES]
)
def test_methods_answer_side_by_side_as_they_do_alone(family, tmp_path):
    methods = [method for method, other in sharing(COVER) if other == family]
    methods += [method for method in PROMPTS if fits(method, family)]
    compare(family, [(method,) for method in methods] + STACKS, tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_of_every_method_answers_as_it_does_alone(family, tmp_path):
    compare(family, [(method,) for method, other in sharing(PRODUCT) if other == family], tmp_path)


def compare(family, settings, folder):
    models = [tune(family, methods, classes=index, seed=index) for index, methods in enumerate(settings)]
    tuned = {f"task {index}": model for index, model in enumerate(models)}
    bank = vp.Bank(tiny(family))
    fill(bank, tuned, folder)
    for model in models:
        vp.bake(model)
    for seed in range(2):  # the first forward sees which grafts leave the frozen modules to all, the second uses it
        assert worst_difference(bank, tuned, mix(list(tuned), seed=seed)) < 1e-5
