"""Files of configs/compare: what they may hold, and which of their methods are taken."""

import itertools
from pathlib import Path

import pytest

from vision_peft.config.command_line import compose_config
from vision_peft.config.errors import ConfigError
from vision_peft.config.find_configs import list_configs
from vision_peft.search.candidates import Candidate, choose_candidates, count_epochs, read_comparison


@pytest.mark.parametrize("name", list_configs("compare"))
def test_every_comparison_that_ships_names_methods_and_sizes_that_exist(name: str) -> None:
    comparison = read_comparison(name)
    budgets = [count_epochs(rungs) for rungs in comparison.levels]
    assert budgets == sorted(budgets, reverse=True)
    for candidate in comparison.candidates:
        largest = [] if candidate.size_key is None else [f"{candidate.size_key}={candidate.sizes[-1]}"]
        compose_config([*candidate.words, *largest])


@pytest.mark.parametrize("name", list_configs("compare"))
def test_every_method_gets_as_many_settings_as_each_level_has(name: str) -> None:
    comparison = read_comparison(name)
    for candidate, rungs in itertools.product(comparison.candidates, comparison.levels):
        settings = candidate.list_settings(3e-3, rungs[0][0])
        assert len({str(values) for values in settings}) == rungs[0][0]


def test_the_recommended_rate_is_first_and_the_others_go_outwards() -> None:
    rates = [values["recipe.lr"] for values in Candidate("full", ("method=full",)).list_settings(3e-3, 8)]
    assert rates == [3e-3, 9e-3, 1e-3, 3e-2, 3e-4, 9e-2, 1e-4, 3e-1]
    sized = Candidate("LoRA", ("method=lora",), "method.rank", (8, 4)).list_settings(3e-3, 8)
    assert [values["recipe.lr"] for values in sized] == [3e-3, 3e-3, 9e-3, 9e-3, 1e-3, 1e-3, 3e-2, 3e-2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: {}\nlevels: [[[1, 1]]]", "methods names none"),
        ("methods: {a: method=lora}", "wanted methods .* and levels"),
        ("methods: {a: [method=lora]}\nlevels: [[[1, 1]]]", "a must be what is typed"),
        ("methods: {a: {train: x, sizes: {k: [1], l: [2]}}}\nlevels: [[[1, 1]]]", r"sizes \(of one key\)"),
        ("methods: {a: {train: x, sizes: {k: []}}}\nlevels: [[[1, 1]]]", "a: sizes.k must be a list of values"),
        ("methods: {a: method=lora}\nlevels: []", "levels must be a list"),
        ("methods: {a: method=lora}\nlevels: [[[1, 0]]]", r"rounds as \[settings, epochs\]"),
        ("methods: {a: method=lora}\nlevels: [[[1, 2], [2, 4]]]", "cannot have more settings than the one before"),
        ("methods: [", "own.yaml"),
    ],
)
def test_another_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "compare").mkdir()
    (tmp_path / "compare" / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_comparison("own", tmp_path)


def test_methods_are_named_as_in_the_table_or_as_configs() -> None:
    known = [Candidate("LoRA", ("method=lora",)), Candidate("VPT-deep", ("method=vpt",))]
    assert choose_candidates(known, None, None) == known
    assert choose_candidates(known, "vpt_deep,lora", None) == [known[1], known[0]]
    assert choose_candidates(known, "[ssf, LoRA]", None) == [Candidate("ssf", ("method=ssf",)), known[0]]
    with pytest.raises(ConfigError, match=r"methods=Lroa: no such method \(did you mean lora\?\); there are LoRA, VPT"):
        choose_candidates(known, "Lroa", None)
    with pytest.raises(ConfigError, match="methods= is empty"):
        choose_candidates(known, "", None)
