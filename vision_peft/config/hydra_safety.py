"""Config files of others choose values; `hydra.*`, which can start code (callbacks, logging), they cannot."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vision_peft.config.errors import ConfigError
from vision_peft.config.sections import flatten

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
        raise ConfigError(
            [f"a file of --config-dir sets {shown}, which can run code: give such keys on the command line"]
        )


def _flat(composed: DictConfig) -> dict[str, Any]:
    hydra = OmegaConf.to_container(composed.hydra, resolve=False)
    return flatten(hydra) if isinstance(hydra, Mapping) else {}
