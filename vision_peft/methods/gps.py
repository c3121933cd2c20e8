"""GPS, gradient-based parameter selection (Zhang et al., CVPR 2024, https://arxiv.org/abs/2312.10136).

Of every output row (neuron) of every linear layer and convolution, the ``k`` weights with the largest gradient train;
all others stay what they were:

    W'[o, i] = v[o, j]  where i = index[o, j], j < k,   else W[o, i]

Gradients are summed over one pass of the training images before training, of the supervised contrastive loss of the
features that the head reads. Biases of these layers and LayerScale train whole; norms, class token, positions and
tables of position biases stay frozen.

Source: FightingFighting/GPS@72e0c31 utils/pruning.py, train_gps.py:489-625. Trained and stored are v and the indices,
not a mask over full gradients: y = W x + b + Σ_j (v - W)[o, j] x[index[o, j]].

Deviations: nothing drops out while gradients are summed, which are fp32 (there under autocast, without loss scaling).
Official rules go by parts of names: there a Swin's relative position tables ("bias") train and the norm of its patch
embedding ("norm") does not; here tables are frozen. Weight decay, 0 as published, would pull v towards 0.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import linears
from vision_peft.tuning.checked_tensors import CheckedTensors
from vision_peft.tuning.graft import Graft, graft, kinds
from vision_peft.tuning.layers import PLAIN_LAYERS, check_plain, convolve
from vision_peft.tuning.method import one_of, positive
from vision_peft.tuning.needs import Need
from vision_peft.tuning.norms import NORMS
from vision_peft.tuning.packed_linear import check_unpacked
from vision_peft.tuning.record import backbone_parameters
from vision_peft.tuning.sample_gradients import LOSSES, sum_gradients
from vision_peft.tuning.samples import SamplesNeeded
from vision_peft.tuning.sparse_term import dense, sparse_term


def select(gradient: Tensor, k: int) -> Tensor:
    """Return the indices (out k) of the largest |gradient| of every row (out ...), in falling order."""
    return gradient.flatten(1).abs().topk(k).indices


class SelectedWeights(CheckedTensors):
    """The trained weights of a layer: ``values`` (out k) and where in the flattened rows they stand."""

    index: Tensor
    before: Tensor  # while weights are folded: what the layer had at ``index``

    def __init__(self, weight: Tensor, k: int) -> None:
        super().__init__()
        self.fan_in = weight[0].numel()
        first = torch.arange(k, dtype=torch.int32, device=weight.device)
        self.register_buffer("index", first.repeat(len(weight), 1))
        self.values = nn.Parameter(self.gather(weight).clone())

    def gather(self, weight: Tensor) -> Tensor:
        """Read a weight (out ...) at ``index``."""
        return weight.detach().flatten(1).gather(1, self.index.long())

    @torch.no_grad()
    def choose(self, gradient: Tensor, weight: Tensor) -> None:
        """Train those with the largest gradient, from the values that they have."""
        self.index.copy_(select(gradient, self.index.shape[1]))
        self.values.copy_(self.gather(weight))

    def problem(self, name: str, tensor: Tensor) -> str | None:
        if name != "index" or tensor.is_meta:
            return None
        rows = tensor.sort(1).values
        if rows[:, 0].min() < 0 or rows[:, -1].max() >= self.fan_in or (rows.diff(dim=1) == 0).any():
            return f"wanted distinct numbers from 0 to {self.fan_in - 1} in every row"
        return None


class GPSLayer(Graft):
    """What both kinds of layers have in common; kinds add the term of ``delta`` to the output."""

    gps: SelectedWeights
    weight: Tensor

    def prepare_fold(self) -> None:
        self.gps.before = self.gps.gather(self.weight)

    def fold(self) -> None:
        rows, index = self.weight.flatten(1), self.gps.index.long()
        added = rows.gather(1, index) - self.gps.before  # by what other methods folded before
        self.weight.copy_(rows.scatter(1, index, self.gps.values + added).view_as(self.weight))
        del self.gps.before


class GPSLinear(GPSLayer):
    """A linear layer."""

    token_wise = True

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        delta = self.gps.values - self.gps.gather(self.weight)
        return y + sparse_term(x.to(y.dtype), delta.to(y.dtype), self.gps.index)


class GPSConv(GPSLayer):
    """A convolution, of patches say."""

    def forward(self, x: Tensor) -> Tensor:
        delta = self.gps.values - self.gps.gather(self.weight)
        term: Any = dense(delta, self.gps.index, self.gps.fan_in).view_as(self.weight)
        conv: Any = self
        y = super().forward(x)
        return y + (convolve(self, x, term) if isinstance(self, nn.Conv2d) else conv._conv_forward(x, term, None))


@dataclass(frozen=True)
class GPS(BlockMethod):
    """The k weights of every neuron that the task's gradient is largest for, all biases and LayerScale."""

    name: ClassVar[str] = "gps"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-3, "weight_decay": 0.0}

    per_neuron: int = 1  # weights k of every output row
    loss: str = "supcon"  # whose gradient selects: "supcon" (contrastive, of features) or "cross_entropy" (of logits)
    temperature: float = 0.07  # of the contrastive loss
    images_per_class: int | None = None  # images behind the gradient; null: all of train

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(per_neuron=self.per_neuron, temperature=self.temperature)
        one_of("loss", self.loss, LOSSES)
        if self.images_per_class is not None:
            positive(images_per_class=self.images_per_class)

    @property
    def samples_needed(self) -> SamplesNeeded:
        return SamplesNeeded(
            "whose gradients select what trains",
            per_class=self.images_per_class,
            augmented=True,
            views=2 if self.loss == "supcon" else 1,
            logits=self.loss == "cross_entropy",
        )

    @property
    def starts_from_weights(self) -> bool:
        return True

    @property
    def starts_as_identity(self) -> bool:
        return True

    @property
    def needs(self) -> tuple[Need, ...]:
        return (*super().needs, PLAIN_LAYERS) if self.blocks == "all" else super().needs

    def attach(self, model: nn.Module) -> None:
        check_unpacked(model)
        own = {id(parameter) for _, parameter in backbone_parameters(model) if not parameter.requires_grad}
        for block in self.chosen_blocks(model):
            linears(block, "qkv")  # makes timm call a layer of which it would read the weight
        chosen = self.chosen_modules(model)
        for layer_name, module in [(name, module) for name, module in model.named_modules() if module in chosen]:
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d) and id(module.weight) in own:
                fan_in = module.weight[0].numel()
                if self.per_neuron > fan_in:
                    raise ValueError(f"per_neuron={self.per_neuron}, but a row of {layer_name} has {fan_in} weights")
                check_plain(module)
                kind = GPSLinear if isinstance(module, nn.Linear) else GPSConv
                graft(module, kind, gps=SelectedWeights(module.weight, self.per_neuron))
            if not isinstance(module, NORMS):
                for name, parameter in module.named_parameters(recurse=False):
                    if id(parameter) in own and (name.endswith("bias") or "gamma" in name):
                        parameter.requires_grad_(True)

    def initialise(self, model: nn.Module, samples: Iterable[Any] | None) -> None:
        if self.loss == "cross_entropy" and not getattr(model, "num_classes", 0):
            raise ValueError('loss="cross_entropy" needs the logits of a head: call vp.replace_head first')
        layers: list[Any] = [module for module in model.modules() if {GPSLinear, GPSConv} & set(kinds(module))]
        found = sum_gradients(model, [layer.weight for layer in layers], samples or (), self.loss, self.temperature)
        if not all(gradient.isfinite().all() for gradient in found):
            raise ValueError("the gradients of these samples are not finite: nothing can be selected by them")
        for layer, gradient in zip(layers, found, strict=True):
            layer.gps.choose(gradient, layer.weight)
