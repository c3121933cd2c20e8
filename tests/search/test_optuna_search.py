"""A search that samples: what Optuna is asked, where a search goes on, and the verb that starts it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny_run import TINY

from vision_peft.cli import tune
from vision_peft.config.parse import Config
from vision_peft.results.find_rows import find_rows
from vision_peft.search import trials as tuning
from vision_peft.search.optuna_search import FILE, _decode_values, _suggest, search_optuna
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
QUICK = ("recipe.epochs=1", "method=linear")


def test_ranges_are_sampled_by_what_they_hold() -> None:
    class Asked:
        def __init__(self) -> None:
            self.calls: list[Any] = []

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *given, **further: self.calls.append((name, *given, further))

    grid = {"a": [0.1, 10], "b": [4, 64, 8], "c": [0, 0.01], "d": [True, False], "e": [None, 1], "f": [3]}
    asked = Asked()
    for key, options in grid.items():
        _suggest(asked, key, options)
    assert asked.calls == [
        ("suggest_float", "a", 0.1, 10, {"log": True}),
        ("suggest_int", "b", 4, 64, {"log": True}),
        ("suggest_float", "c", 0, 0.01, {"log": False}),
        ("suggest_categorical", "d", [0, 1], {}),
        ("suggest_categorical", "e", [0, 1], {}),
        ("suggest_categorical", "f", [0], {}),
    ]
    drawn = {"a": 0.123456, "b": 7, "c": 0.0012345, "d": 1, "e": 0, "f": 0}
    assert _decode_values(drawn, grid) == {"a": 0.123, "b": 7, "c": 0.00123, "d": False, "e": None, "f": 3}


def test_without_optuna_the_way_to_get_it_is_told(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'vision_peft\[sweep\]'"):
        search_optuna(tiny(*QUICK, "grid.recipe.lr=[1e-3,1e-1]"), number=2)


def test_a_sampled_search_goes_on_where_it_was_interrupted(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="needs optuna, of the extra test")
    overrides = [*QUICK, "grid.recipe.lr=[1e-4,1e-1]", "grid.recipe.weight_decay=[0,1e-2]"]
    whole = search_optuna(tiny(*overrides, folder="whole"), number=4)
    assert len({trial.row.lr for trial in whole}) == 4
    assert all(1e-4 <= trial.row.lr <= 1e-1 and 0 <= trial.row.weight_decay <= 1e-2 for trial in whole)
    trained: list[float] = []

    def counted(trial: Config, command: str) -> Any:
        trained.append(trial.recipe.lr)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(trial, command)

    monkeypatch.setattr(tuning, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        search_optuna(tiny(*overrides, folder="broken"), number=4)
    again = search_optuna(tiny(*overrides, folder="broken"), number=4)
    assert [trial.values for trial in again] == [trial.values for trial in whole]
    assert len(trained) == 5  # the third twice
    assert len(search_optuna(tiny(*overrides, folder="broken"), number=5)) == 5
    assert len(trained) == 6


def test_the_verb_samples_trials_and_finds_them_again(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna", reason="needs optuna, of the extra test")
    words = [*TINY, *QUICK, "data=folder", f"data.root={photos}", f"output_dir={tmp_path / 'runs'}"]
    words += ["grid.recipe.lr=[1e-4,1e-1]", "--optuna", "2"]
    assert tune.main(words) == 0
    told = capsys.readouterr().out
    rates = sorted(row.lr for row in find_rows([tmp_path / "runs"]))
    assert len(rates) == 2
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert "\n[2/2] recipe.lr=" in told
    assert "\nval chose recipe.lr=" in told
    assert (tmp_path / "runs" / FILE).is_file()
    assert tune.main(words) == 0
    assert capsys.readouterr().out.count("finished before: ") == 2
    assert sorted(row.lr for row in find_rows([tmp_path / "runs"])) == rates


def test_a_second_process_at_the_same_search_is_refused_and_one_at_another_is_not(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="needs optuna, of the extra test")
    config, other = (tiny(*QUICK, f"grid.recipe.lr=[1e-4,{highest}]") for highest in ("1e-1", "1e-2"))
    began: list[float] = []

    def start_another(trial: Config, command: str) -> Any:
        if not began:
            began.append(trial.recipe.lr)
            with pytest.raises(ValueError, match="that another process is at: wait for it or stop it"):
                search_optuna(config, number=2)
            assert len(search_optuna(other, number=1)) == 1
        return train(trial, command)

    monkeypatch.setattr(tuning, "train", start_another)
    assert len(search_optuna(config, number=2)) == 2
    assert len(search_optuna(config, number=3)) == 3
