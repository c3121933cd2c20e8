"""The product of method settings and families of backbones, and the part of it that the default suite takes.

A method or a family is in both by existing. ``pytest -m matrix`` runs the product; the default suite runs the cases
marked ``cover``: of every method ``PER_METHOD`` families, of every other setting ``PER_SETTING``, under every family
``PER_FAMILY`` methods, chosen by hash, so that adding one changes nothing about the others.
"""

import copy
import functools
import hashlib
import re
from typing import Any

import pytest
from support import selection
from support.families import ALL, WITH_BLOCKS, tiny

import vision_peft as vp

PER_METHOD = 3  # families under which the default suite runs a method as it is by default, all where it fits fewer
PER_SETTING = 1  # families under which it runs another setting
PER_FAMILY = 4  # methods that it runs on a family
COMPILED = 1  # settings that it compiles on a family; every method on one at least

# Settings beyond the defaults, by method name.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "aim": [{"ratio": 0.5, "temporal": 2, "scale": 1.0}],
    "adalora": [{"rank": 2, "target_rank": 1, "targets": ("proj", "fc1", "fc2"), "allocate": False}],
    "adapter_plus": [
        {"bottleneck": 4, "position": "pre", "scaling": "learned", "norm": True, "init": "bert"},
        {"bottleneck": 4, "position": "houlsby", "bias": False, "scaling": 0.5, "init": "lora"},
    ],
    "adaptformer": [
        {"bottleneck": 4, "input": "block_norm", "scale": "learnable"},
        {"bottleneck": 4, "input": "own_norm", "form": "sequential"},
        {"bottleneck": 4, "init": "trunc_normal", "dropout": 0.0},
    ],
    "bi_adaptformer": [{"bottleneck": 4, "bits": 2}],
    "bi_lora": [{"rank": 4, "bits": 4, "scale": 5.0, "packed": True}],
    "convpass": [{"bottleneck": 4, "sites": ("attn",), "init": "identity", "scale": 0.5}],
    "dtl": [{"rank": 3, "kernel": 4, "beta": 2.0}, {"added": "last 1"}],
    "fact": [{"rank": 4, "form": "tk", "scale": 2.0}, {"rank": 4, "form": "tk", "columns": "own"}],
    "gps": [{"per_neuron": 2}],
    "houlsby": [
        {"bottleneck": 4, "sigma": 0.1, "train_norms": True},
        {"bottleneck": 4, "sigma": 0.1, "positions": ("mlp",)},
    ],
    "lora": [
        {"rank": 2, "targets": ("qkv",)},
        {"rank": 2, "alpha": 4, "targets": ("k", "proj", "fc1", "fc2")},
        {"rank": 2, "dora": True, "rslora": True, "targets": ("q", "v", "proj", "fc1")},
        {"rank": 2, "dora": True, "targets": ("qkv",)},
        {"rank": 2, "targets": ("q", "proj", "proj_output")},
        {"rank": 2, "targets": ("all-linear",)},
        {"rank": 2, "init": "pissa", "targets": ("v", "proj", "patch_embed"), "rank_pattern": {"attn.proj": 3}},
        {"rank": 2, "init": "olora", "targets": ("qkv", "fc2"), "lora_bias": True, "alpha_pattern": {"qkv": 4}},
        {"rank": 4, "init": "orthogonal", "targets": ("v", "proj"), "dora": True, "expert_dropout": 0.2},
    ],
    "lst": [{"reduction": 4, "gate": "none", "mix": "after", "blocks": (1,)}],
    "input_tuning": [{"part": "patch_embed"}],
    "norm_tuning": [{"norms": "final"}],
    "prefix_tuning": [{"tokens": 3, "hidden": 8, "deep": True, "embedding": 6}, {"tokens": 3, "hidden": None}],
    "p_tuning": [
        {"tokens": 3, "lstm_width": "full"},
        {"tokens": 3, "encoder": "mlp", "positions": "interleaved"},
        {"tokens": 3, "encoder": "none", "positions": "end"},
    ],
    "p_tuning_v2": [{"tokens": 3, "hidden": 8}],
    "repadapter": [{"bottleneck": 4, "groups": 1, "sites": ("attn",), "scale": 2.0}],
    "st_adapter": [
        {"width": 6, "kernel": (3, 3, 3), "sites": ("attn", "mlp")},
        {"width": 6, "sites": ("attn",), "blocks": "last 1"},
    ],
    "ssf": [{"last": "before_pooling"}],
    "vera": [{"rank": 4, "targets": ("all-linear",), "save_projection": True}],
    "zero_i2v": [
        {"ratio": 0.5, "shift_div": 8, "long_shift_div": 8, "adapters": 3, "scale": 1.0},
        {"shift_div": 4, "adapters": 0},
    ],
    "vpt": [{"tokens": 3, "deep": False}, {"tokens": 3, "project": 8}, {"tokens": 3, "deep": False, "project": 8}],
}

# All that graft, or train what is there. k-NN does neither: it keeps features in the head's place.
METHODS = [
    method(**fields)
    for name, method in vp.METHODS.items()
    if not method().brings_head
    for fields in [{}, *VARIANTS.get(name, [])]
]

BACKBONES = list(ALL)

Case = tuple[vp.Method, str]


@functools.cache
def _bare(family: str) -> Any:
    return tiny(family)


def refusal(method: vp.Method, model: Any) -> str | None:
    """The reason for which ``method`` says it does not fit ``model``; None where it fits."""
    return next((reason for need in method.needs if (reason := need.missing(model)) is not None), None)


def fits(method: vp.Method, family: str) -> bool:
    """Whether ``method`` has all that it needs on the tiny model of ``family``."""
    return refusal(method, _bare(family)) is None


def merge_refusal(tuned: Any) -> str | None:
    """The reason for which ``vp.merge`` refuses ``tuned``, which stays as it is; None where it would merge."""
    try:
        vp.merge(copy.deepcopy(tuned))
    except ValueError as error:
        return str(error)
    return None


def lacks_bias(tuned: Any, reason: str) -> bool:
    """Whether every layer that ``reason`` names as one without a bias has none."""
    named = re.findall(r"a shift \w+ an? \w+ without a bias has nowhere to go.*? \(([\w.]+)\)", reason)
    return bool(named) and all(getattr(tuned.get_submodule(name), "bias", None) is None for name in named)


def standardises(tuned: Any, reason: str) -> bool:
    """Whether the layer that ``reason`` names as one that makes another weight out of its own does so."""
    named = re.findall(r"makes another weight out of its own in every forward.*? \(([\w.]+)\)", reason)
    return bool(named) and all("Std" in type(tuned.get_submodule(name)).__name__ for name in named)


PRODUCT: list[Case] = [(method, family) for method in METHODS for family in BACKBONES if fits(method, family)]
REFUSED: list[Case] = [(method, family) for method in METHODS for family in BACKBONES if not fits(method, family)]


def _rank(case: Case) -> bytes:
    return hashlib.sha256(f"{case[0]!r} on {case[1]}".encode()).digest()


def choose_cover(product: list[Case]) -> list[Case]:
    """Cases of ``product`` that hold enough families of every setting and enough methods on every family."""
    ranked = sorted(product, key=_rank)
    chosen: set[Case] = set()
    for method in {method for method, _ in product}:
        number = PER_METHOD if method == type(method)() else PER_SETTING
        chosen |= set([case for case in ranked if case[0] == method][:number])
    for family in {family for _, family in product}:
        names = {method.name for method, other in chosen if other == family}
        for case in ranked:
            if case[1] == family and case[0].name not in names and len(names) < PER_FAMILY:
                chosen.add(case)
                names.add(case[0].name)
    return [case for case in product if case in chosen]


COVER = choose_cover(PRODUCT)


def _compiles_as(method: vp.Method) -> tuple[str, str | None]:
    return method.name, method.bake_before_compile


def choose_compiled(cover: list[Case]) -> list[Case]:
    """The cases of ``cover`` that are compiled too: every method once, and on every family ``COMPILED`` settings.

    Each takes about a second. So a method takes a family that no other has taken, those that fit the fewest first.
    """
    ranked = sorted(cover, key=_rank)
    chosen: set[Case] = set()
    kinds: dict[tuple[str, str | None], list[Case]] = {}
    for case in ranked:
        kinds.setdefault(_compiles_as(case[0]), []).append(case)
    for cases in sorted(kinds.values(), key=len):
        taken = {family for _, family in chosen}
        chosen.add(next((case for case in cases if case[1] not in taken), cases[0]))
    for family in BACKBONES:
        own = [case for case in ranked if case[1] == family and case not in chosen]
        chosen |= set(own[: max(0, COMPILED - sum(other == family for _, other in chosen))])
    return [case for case in cover if case in chosen]


def _mark(covered: bool) -> list[pytest.MarkDecorator]:
    return [pytest.mark.matrix, pytest.mark.cover] if covered else [pytest.mark.matrix]


def parametrize(cover: list[Case], whole: bool = selection.whole) -> pytest.MarkDecorator:
    """The product as parameters ``method`` and ``family`` of a test, or those in ``cover`` alone."""
    return pytest.mark.parametrize(
        ("method", "family"),
        [
            pytest.param(*case, id=f"{case[0]!r}-{case[1]}", marks=_mark(case in cover))
            for case in (PRODUCT if whole else cover)
        ],
    )


every_case = parametrize(COVER)
every_compiled_case = parametrize(choose_compiled(COVER))
every_refusal = pytest.mark.parametrize(
    ("method", "family"), [pytest.param(method, family, id=f"{method!r}-{family}") for method, family in REFUSED]
)


def parametrize_where_fit(methods: list[vp.Method]) -> pytest.MarkDecorator:
    """``method`` and ``family`` of a test: every family under each of ``methods`` that fits it."""
    cases = [(method, family) for method in methods for family in WITH_BLOCKS if fits(method, family)]
    ids = [f"{method.name}-{family}" for method, family in cases]
    return pytest.mark.parametrize(("method", "family"), cases, ids=ids)


def parametrize_compiled(families: list[str]) -> pytest.MarkDecorator:
    """``families`` as parameter ``family`` of a test that compiles; the default suite runs a few of them."""
    few = sorted(families, key=lambda family: hashlib.sha256(family.encode()).digest())[:PER_SETTING]
    chosen = families if selection.whole else few
    return pytest.mark.parametrize("family", [pytest.param(family, marks=_mark(family in few)) for family in chosen])


def parametrize_stacks(stacks: list[tuple[vp.Method, vp.Method]]) -> pytest.MarkDecorator:
    """Parameters of a test of two methods on one model; each two run on ``PER_METHOD`` families by default."""
    parameters = []
    for stack in stacks:
        fitting = [family for family in WITH_BLOCKS if all(fits(method, family) for method in stack)]
        names = {family: hashlib.sha256(f"{stack!r} on {family}".encode()).digest() for family in fitting}
        few = sorted(fitting, key=names.__getitem__)[:PER_METHOD]
        for family in fitting if selection.whole else few:
            marks = _mark(family in few)
            parameters.append(pytest.param(*stack, family, id=f"{stack[0]!r}-{stack[1]!r}-{family}", marks=marks))
    return pytest.mark.parametrize(("first", "second", "family"), parameters)
