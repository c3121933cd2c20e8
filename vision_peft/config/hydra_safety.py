"""Config files of others choose values; `hydra.*`, which can start code (callbacks, logging), they cannot."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vision_peft.config.parse import ConfigError, flatten

_OF_THIS_COMMAND = ("overrides.", "runtime.", "searchpath", "job.override_dirname", "job.config_name")


def check_hydra_keys(composed: DictConfig, bare: DictConfig) -> None:
    """Raise ConfigError for `hydra.*` keys that come neither from this project's files nor from the command line.

    Args:
        composed: everything, with the files of further folders.
        bare: the same without these files and with nothing typed but `hydra.*`.
    """
    ours, theirs = (_flat(each) for each in (bare, composed))
    changed = [f"hydra.{key}" for key in sorted(ours | theirs) if ours.get(key) != theirs.get(key)]
    changed = [key for key in changed if not key.removeprefix("hydra.").startswith(_OF_THIS_COMMAND)]
    if changed:
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise ConfigError([f"a file of --config-dir sets {shown}, which can run code: such keys are only typed"])


def check_flags(parsed: Any) -> None:
    """Raise ConfigError for flags of Hydra that read a whole config, or a pickle, past all checks."""
    wrong = {"--config-path": parsed.config_path, "--experimental-rerun": parsed.experimental_rerun}
    ways = "add a folder of your own with --config-dir=FOLDER"
    problems = [f"{flag}={value} is not taken: {ways}" for flag, value in wrong.items() if value]
    if problems:
        raise ConfigError(problems)


def _flat(composed: DictConfig) -> dict[str, Any]:
    hydra = OmegaConf.to_container(composed.hydra, resolve=False)
    return flatten(hydra) if isinstance(hydra, Mapping) else {}
