"""What a run must remember between two updates, as the file of a state holds it and as the train_state run does.

Whole tensors go into `state.pt`. Where the backbone is cut into shards, tuned tensors, their average and the
optimiser's moments go through torch's distributed checkpoint, every process writing its shards; they can be read by any
number of processes, and by a run without shards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.distributed.parallel import load_tuned, shard_like
from vision_peft.distributed.processes import is_communication_error, is_distributed
from vision_peft.printable import name_some, printable

# of torch's optimisers, for each parameter
_MOMENTS = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "SGD": {"momentum_buffer"}, "LARS": {"momentum_buffer"}}
SHARDS = "shards"  # the folder of distributed tensors inside that of a state


@dataclass
class TrainState:
    """The tensors of a run that change with every update."""

    model: nn.Module
    tuned: Mapping[str, Tensor]  # views of what the model trains
    average: dict[str, Tensor] | None
    optimizer: torch.optim.Optimizer

    def state_dict(self) -> dict[str, Any]:
        """All of them, whole; for a model without shards."""
        return {"tuned": dict(self.tuned), "average": self.average, "moments": self.optimizer_state()}

    def sharded_state_dict(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what every process knows of them, and the tensors by name, sharded as they are."""
        moments = self.optimizer_state()
        tensors = {name: value for name, value in moments.items() if isinstance(value, Tensor)}
        known = {
            "rest": {name: value for name, value in moments.items() if name not in tensors},
            "sizes": {name: list(value.shape) for name, value in tensors.items()},
        }
        return known, _name_tensors(tensors, self.tuned, self.average)

    def load_state_dict(self, state: Mapping[str, Any], folder: Path) -> None:
        """Take over what `state`, read from `folder`, holds, however either is cut."""
        if "sharded" in state:
            tuned, average, moments = self._from_shards(state["sharded"], folder)
        else:
            tuned, average, moments = state["tuned"], state["average"], state["moments"]
        of_name = dict(vp.tuned_parameters(self.model))
        wholes = {"average": (average or {}) if self.average else None, "best": state["best"] or None}
        for what, tensors in wholes.items():
            if tensors is not None:
                _check_like(tensors, self.tuned, f"{folder}: {what}")
        self._check_moments(moments, of_name, folder)
        load_tuned(self.model, tuned)
        for name, tensor in (self.average or {}).items():
            tensor.copy_(shard_like(average[name], tensor))
        entries: dict[str, dict[str, Any]] = {}
        for path, value in moments.items():
            name, _, key = path.rpartition("/")
            cut = isinstance(value, Tensor) and value.shape == of_name[name].shape
            entries.setdefault(name, {})[key] = shard_like(value, of_name[name]) if cut else value
        groups = self.optimizer.state_dict()["param_groups"]  # rates and the like follow from the config
        by_index = {index: entries[name] for index, name in self._names().items() if name in entries}
        self.optimizer.load_state_dict({"state": by_index, "param_groups": groups})

    def _check_moments(self, moments: Mapping[str, Any], of_name: Mapping[str, Tensor], folder: Path) -> None:
        """Raise ValueError where the moments are not those of the optimiser and of what the run trains."""
        wanted = _MOMENTS.get(type(self.optimizer).__name__)
        found: dict[str, set[str]] = {}
        for path, value in moments.items():
            name, _, key = path.rpartition("/")
            if name not in of_name:
                raise ValueError(f"{folder} keeps {printable(path)}: this run trains no {printable(name)}")
            found.setdefault(name, set()).add(key)
            size = tuple(value.shape) if isinstance(value, Tensor) else ()
            if size != (() if key == "step" else tuple(of_name[name].shape)):
                raise ValueError(f"{folder} keeps {printable(path)} of size {size}: the optimiser has no such state")
        for name, keys in found.items():
            if wanted is not None and keys != wanted:
                raise ValueError(
                    f"{folder} keeps {name_some(sorted(keys))} of {name}, wanted {', '.join(sorted(wanted))}: it is of "
                    "another optimiser"
                )

    def _from_shards(self, known: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], ...]:
        of_name = dict(vp.tuned_parameters(self.model))
        moments: dict[str, Any] = {}
        for path, size in known["sizes"].items():
            like = of_name.get(path.rpartition("/")[0])
            if like is None or size not in ([], list(like.shape)):
                raise ValueError(f"{folder} keeps {path} of size {size}: the optimiser of this run has no such state")
            moments[path] = torch.zeros_like(like.detach()) if list(like.shape) == size else torch.zeros(())
        tuned = {name: tensor.clone() for name, tensor in self.tuned.items()}
        average = {name: tensor.clone() for name, tensor in (self.average or {}).items()}
        wanted = _name_tensors(moments, tuned, average)
        import torch.distributed.checkpoint as dcp

        from vision_peft.runs.safe_dcp_reader import ShardReader

        try:
            dcp.load(wanted, storage_reader=ShardReader(folder / SHARDS), no_dist=not is_distributed())
        except dcp.CheckpointException as error:  # no Exception for Python: nothing else would catch it
            if is_communication_error(error):
                raise
            reason = next((str(failure[0]) for failure in error.failures.values()), "")
            raise ValueError(f"{folder / SHARDS} cannot be read: {printable(reason, 1000)}") from None
        return tuned, average, {**known["rest"], **moments}

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimiser's state by name of the parameter and of the moment."""
        names, entries = self._names(), self.optimizer.state_dict()["state"]
        return {f"{names[index]}/{key}": value for index, values in entries.items() for key, value in values.items()}

    def _names(self) -> dict[int, str]:
        """Name of each parameter by its number in the optimiser's state."""
        of_parameter = {id(parameter): name for name, parameter in vp.tuned_parameters(self.model)}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return {index: of_parameter[id(parameter)] for index, parameter in enumerate(parameters)}


def load_scaler(scaler: torch.amp.GradScaler, saved: Mapping[str, Any], folder: Path) -> None:
    """Take over the scale of the loss; one of a run in another precision starts anew.

    Raises:
        ValueError: `saved` is not what a GradScaler saves.
    """
    if not (scaler.is_enabled() and saved):
        return
    if missing := scaler.state_dict().keys() - saved.keys():
        raise ValueError(f"{folder}: the scaler has no {', '.join(sorted(missing))}")
    scaler.load_state_dict(dict(saved))


def _check_like(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str) -> None:
    """Raise ValueError where tensors are of other names or shapes than `own`."""
    shapes, wanted = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (tensors, own))
    if shapes != wanted:
        differing = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
        raise ValueError(f"{where} is not of what this run trains: {name_some(differing, 5)} differ")


def _name_tensors(
    moments: Mapping[str, Tensor], tuned: Mapping[str, Tensor], average: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Put the tensors of a checkpoint under one name each."""
    groups = {"moments": moments, "tuned": tuned, "average": average or {}}
    return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
