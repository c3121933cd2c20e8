"""Values at the edge of what a recipe, a seed and a verb take: refused by name, with what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_peft.cli import submit
from vision_peft.cli.main import main
from vision_peft.config.command_line import compose_config
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config, parse_config
from vision_peft.config.run_id import run_folder
from vision_peft.runs.run_config import read_config
from vision_peft.runs.run_folder import open_folder
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.trained import train

Tiny = Callable[..., Config]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("seed=18446744073709551616", "seed must be a whole number; got 18446744073709551616, which is beyond 64 bits"),
        ("data.seed=18446744073709551616", "data.seed must be a whole number; got 18446744073709551616, which is"),
        ("recipe.ema=1", "recipe.ema must be at least 0 and below 1, got 1"),
        ("recipe.drop_path=1", "recipe.drop_path must be at least 0 and below 1, got 1"),
        ("recipe.betas=[0.9,1.0]", "recipe.betas must be at least 0 and below 1, got 1.0"),
        ("recipe.betas=[-0.1,0.9]", "recipe.betas must be at least 0 and below 1, got -0.1"),
    ],
)
def test_a_value_beyond_the_edge_is_refused_by_name(word: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_config(["data=folder", "data.root=photos", word])
    (problem,) = error.value.problems
    assert problem.startswith(expected)


def test_the_largest_seed_can_be_read_back(tiny: Tiny) -> None:
    config = tiny("seed=18446744073709551615")
    open_folder(config, run_folder(config)).release()
    assert parse_config(read_config(run_folder(config))).seed == 2**64 - 1


def test_views_of_single_images_are_refused_in_evaluation_as_in_training(tiny: Tiny) -> None:
    config = tiny("recipe.epochs=1", "method=linear")
    train(config)
    with pytest.raises(ValueError, match=r"views=5 crops=3: views and crops are of clips, and .* answers single"):
        evaluate_saved(run_folder(config), ["views=5", "crops=3"])
    assert evaluate_saved(run_folder(config), ["views=1"]).metrics.images == 24


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("submit", "submit a job for each of them, or a sweep with  vision-peft sweep --slurm"),
        ("tune", "--seeds 0,1 trains the chosen one with several seeds"),
        ("sweep", "--seeds 0,1 runs several seeds"),
        ("train", "add -m to run them one after another"),
    ],
)
def test_every_verb_says_what_several_values_need(verb: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["sweep=learning_rate"] if verb == "sweep" else []
    with pytest.raises(SystemExit, match="2"):
        main([verb, *sweep, "method=lora", "seed=0,1"])
    told = capsys.readouterr().err
    assert "seed=0,1 lists several values: " in told
    assert words in told
    assert ("-m" in told.split()) == (verb == "train")


def test_submit_takes_own_configs_and_the_limit_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[list[str]] = []

    def keep(overrides: list[str], *_: Any) -> Any:
        submitted.append(overrides)
        raise ValueError("submitted")

    (tmp_path / "own" / "method").mkdir(parents=True)
    (tmp_path / "own" / "method" / "mine.yaml").write_text("name: lora\nrank: 3\n")
    monkeypatch.setattr(submit, "check_submission", lambda _: None)
    monkeypatch.setattr(submit, "submit_training", keep)
    words = [f"--config-dir={tmp_path / 'own'}", "method=mine", "data=digits"]
    with pytest.raises(ValueError, match="submitted"):
        submit.main([*words, "--memory", "8GB", "--gpus", "0"])
    assert submitted == [[*words, "memory=8GB"]]
