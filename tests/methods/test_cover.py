"""The part of the matrix that the default suite runs holds every setting, every family, every seam between them."""

import dataclasses
from typing import ClassVar

from support.matrix import (
    BACKBONES,
    COMPILED,
    COVER,
    METHODS,
    PER_FAMILY,
    PER_METHOD,
    PER_SETTING,
    PRODUCT,
    REFUSED,
    choose_compiled,
    choose_cover,
    every_refusal,
    parametrize,
)

import vision_peft as vp

COMPILED_CASES = choose_compiled(COVER)


def families_of(method, cases):
    return {family for other, family in cases if other == method}


def names_on(family, cases):
    return {method.name for method, other in cases if other == family}


def test_every_method_and_every_setting_runs_on_enough_families():
    for method in METHODS:
        fitting, wanted = families_of(method, PRODUCT), PER_METHOD if method == type(method)() else PER_SETTING
        assert len(families_of(method, COVER)) >= min(wanted, len(fitting)) >= 1, method


def test_every_family_runs_under_enough_methods_or_under_all_that_fit_it():
    for family in BACKBONES:
        assert len(names_on(family, COVER)) >= min(PER_FAMILY, len(names_on(family, PRODUCT))), family


def test_every_method_and_every_family_is_compiled_and_all_else_by_the_whole_matrix():
    assert {method.name for method, _ in COMPILED_CASES} == {method.name for method in METHODS}
    for family in BACKBONES:
        assert sum(other == family for _, other in COMPILED_CASES) >= COMPILED, family
    assert set(COMPILED_CASES) <= set(COVER)
    assert {case.values for case in parametrize(COMPILED_CASES, whole=True).args[1]} == set(PRODUCT)


def test_every_reason_to_bake_before_compiling_is_met():
    reasons = {(method.name, method.bake_before_compile) for method in METHODS}
    assert reasons == {(method.name, method.bake_before_compile) for method, _ in COMPILED_CASES}
    assert ("p_tuning", "LSTM") in reasons


def test_every_pair_is_in_the_product_or_refused_and_every_refusal_runs_by_default():
    assert len(PRODUCT) + len(REFUSED) == len(METHODS) * len(BACKBONES)
    assert {method.name for method in METHODS} == set(vp.METHODS) - {"knn"}  # which brings a head and grafts nothing
    assert not any(parameters.marks for parameters in every_refusal.args[1])
    marks = {case.values: {mark.name for mark in case.marks} for case in parametrize(COVER, whole=True).args[1]}
    assert set(marks) == set(PRODUCT)
    assert {case.values for case in parametrize(COVER, whole=False).args[1]} == set(COVER)
    assert {case for case, names in marks.items() if "cover" in names} == set(COVER)
    assert all("matrix" in names for names in marks.values())
    assert len(COVER) < len(PRODUCT) / 3, "the default suite has to stay affordable"


@dataclasses.dataclass(frozen=True)
class NewMethod(vp.BitFit):
    name: ClassVar[str] = "new_method"


def test_a_new_method_or_family_is_in_the_cover_by_existing_and_moves_little_else():
    method = NewMethod()
    grown = choose_cover([*PRODUCT, *((method, family) for family in BACKBONES)])
    assert len(families_of(method, grown)) >= PER_METHOD
    assert {case for case in grown if case[0] != method} <= set(COVER)
    grown = choose_cover([*PRODUCT, *((method, "new_family") for method in METHODS)])
    assert len(names_on("new_family", grown)) >= PER_FAMILY
    assert len({case for case in grown if case[1] != "new_family"} - set(COVER)) <= PER_FAMILY
