"""The flags that are read here are those of the installed Hydra, which offers no public parser."""

from hydra._internal.utils import get_args_parser

from vision_peft.config.flags import parse_flags


def test_every_flag_of_hydra_is_known_with_as_many_values() -> None:
    for action in get_args_parser()._actions:
        for flag in action.option_strings:
            words = [flag, "job"] if action.nargs is None else [flag]
            if action.dest not in ("config_path", "experimental_rerun"):
                assert getattr(parse_flags([*words, "seed=1"]), action.dest) not in (None, False), flag


def test_overrides_stand_before_and_behind_flags() -> None:
    parsed = parse_flags(["method=lora", "-m", "seed=0,1", "--config-dir", "mine", "recipe.lr=1"])
    assert parsed.overrides == ["method=lora", "seed=0,1", "recipe.lr=1"]
    assert (parsed.multirun, parsed.config_dir) == (True, "mine")
