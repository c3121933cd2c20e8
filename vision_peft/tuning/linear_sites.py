"""Where updates of weights go: the layers that ``targets`` name."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from vision_peft.tuning.backbone import has_blocks
from vision_peft.tuning.blocks import blocks, is_fused, linears, rows_by_head
from vision_peft.tuning.families import family_of
from vision_peft.tuning.graft import kinds
from vision_peft.tuning.layers import body_layers
from vision_peft.tuning.needs import Need
from vision_peft.tuning.qkv_rows import split_rows

SLICES = ("q", "k", "v")
ALL_LINEAR, PATCH_EMBED, PROJ_OUTPUT = "all-linear", "patch_embed", "proj_output"


class Site(NamedTuple):
    """One weight, or several side by side, that get one update."""

    name: str  # of the module; with .q, .k, .v behind it of a slice; attn.qkv of three layers
    layers: tuple[Any, ...]  # one layer; three where separate q, k and v share a factor
    target: str  # one of the targets
    sliced: bool = False  # a third of the rows of a fused layer, by its target
    heads: int | None = None  # of a fused layer whose rows go head by head
    optional: bool = False  # may be too narrow for a rank, and is left out then

    @property
    def weights(self) -> list[Tensor]:
        """Return the weight of each layer, or the rows of the slice."""
        found = [layer.weight for layer in self.layers]
        return [split_rows(found[0], self.heads)["qkv".index(self.target)]] if self.sliced else found

    @property
    def full_rank(self) -> int:
        """Return the highest rank that an update can have."""
        return min(sum(len(weight) for weight in self.weights), self.weights[0][0].numel())

    def check_rank(self, rank: int) -> None:
        """Raise ValueError where ``rank`` is above the full rank."""
        if rank > self.full_rank:
            layer = self.layers[0]
            inputs, outputs = self.weights[0][0].numel(), sum(len(weight) for weight in self.weights)
            kind = "layer" if isinstance(layer, nn.Linear) else "convolution"
            raise ValueError(
                f"rank={rank} is above the full rank of a {kind} from {inputs} to {outputs} channels ({self.name}): "
                f"choose at most {self.full_rank}"
            )

    def check_bare(self) -> None:
        """Raise ValueError where a layer carries something already, beside which DoRA cannot normalise its weight."""
        if others := [kind for layer in self.layers for kind in kinds(layer)]:
            raise ValueError(
                f"DoRA normalises the weight of a plain linear layer, this one carries {others[-1].__name__}: "
                "attach LoRA(dora=True) first"
            )


def find_sites(
    model: Any, chosen: Iterable[Any], targets: Collection[str], tuned: Collection[nn.Module], *, share: bool = True
) -> list[Site]:
    """List the sites of ``targets`` (q, k, v, qkv, proj, proj_output, fc1, fc2, all-linear, patch_embed).

    On a model without transformer blocks ``all-linear`` names its ungrouped convolutions, too.

    Args:
        model: nothing is changed about it, but for timm's bypass of a fused ``qkv``, which is made callable.
        chosen: blocks of it that are tuned.
        targets: in the order of the sites in a block; there slices go first, ``proj_output`` last.
        tuned: modules in and around these blocks, of which ``all-linear`` takes linear layers.
        share: separate q, k and v under ``qkv`` are one site; else three.

    Raises:
        ValueError: the patch embedding is no convolution, or is not tuned.
    """
    names = {module: name for name, module in model.named_modules()}
    sites: list[Site] = []
    main: set[nn.Module] = set()
    for block in chosen:
        sliced = [t for t in SLICES if t in targets and is_fused(block)]
        if sliced:
            fused, heads = linears(block, "qkv"), rows_by_head(block)
            sites += [Site(f"{names[qkv]}.{t}", (qkv,), t, sliced=True, heads=heads) for qkv in fused for t in sliced]
        for target in targets:
            if target == "qkv" and share and not is_fused(block):
                layers = tuple(linears(block, target))
                sites.append(Site(f"{names[layers[0]].rpartition('.')[0]}.qkv", layers, target))
            elif target in ("qkv", *SLICES, "proj", "fc1", "fc2") and target not in sliced:
                sites += [Site(names[layer], (layer,), target) for layer in linears(block, target)]
        if PROJ_OUTPUT in targets:
            projections = linears(block, "proj")
            sites += [Site(f"{names[proj]}_output", (proj,), PROJ_OUTPUT) for proj in projections]
        if ALL_LINEAR in targets:
            main |= {layer for target in ("qkv", "proj", "fc1", "fc2") for layer in linears(block, target)}
    if ALL_LINEAR in targets:
        found = [(name, layer) for name, layer in _all_linear(model).items() if layer in tuned]
        sites += [Site(name, (layer,), ALL_LINEAR, optional=layer not in main) for name, layer in found]
    if PATCH_EMBED in targets:
        layer = check_patch_weight(model)
        if layer not in tuned:
            raise ValueError("target patch_embed stands in front of block 0, which is not among the chosen blocks")
        sites.append(Site(names[layer], (layer,), PATCH_EMBED))
    return sites


def _all_linear(model: Any) -> dict[str, Any]:
    """Linear layers of the body; of a model without transformer blocks its convolutions too."""
    convolutional = not has_blocks(model)
    return {name: layer for name, layer in body_layers(model).items() if convolutional or isinstance(layer, nn.Linear)}


def check_patch_weight(model: Any) -> Any:
    """Return the convolution or linear layer that makes tokens of patches.

    Raises:
        ValueError: the backbone makes them otherwise.
    """
    blocks(model)
    layer = getattr(family_of(model).patch_embedding(model), "proj", None)
    if not isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear):
        raise ValueError(
            f"target patch_embed wants one convolution or linear layer, this {type(model).__name__} has a "
            f"{type(layer).__name__}"
        )
    return layer


PATCH_WEIGHT = Need("patches embedded by one layer", check_patch_weight)
