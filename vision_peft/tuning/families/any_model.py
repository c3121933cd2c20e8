"""Every other model of timm: convolutional networks, MetaFormers, and transformers without a family of their own.

There are no blocks here that split in attention and MLP. What only asks for layers, norms or biases works all the same:
``layers.body_layers``, ``norms.norm_layers``.
"""

from typing import Any, NoReturn

from torch import Tensor, nn

from vision_peft.tuning.families.family import Family


class AnyModel(Family):
    """A model whose class timm defines, and which tells its classification layer."""

    examples = "ConvNeXt, ResNet"
    model_classes = ()
    block_classes = ()
    attention_classes = ()
    attention_takes_frames = False
    covers_the_rest = True

    def covers(self, model: Any) -> bool:
        of_timm = any(cls.__module__.startswith("timm.models.") for cls in type(model).__mro__)
        return of_timm and hasattr(model, "reset_classifier") and bool(self._named(model))

    def _named(self, model: Any) -> tuple[str, ...]:
        known = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
        return (known,) if isinstance(known, str) else tuple(known)

    def classifier_names(self, model: Any) -> tuple[str, ...]:
        """Name them as timm's configuration does; without classes a part of the head stands in their place."""
        known = {name for name, _ in model.named_modules()}
        return tuple(filter(None, (_find_innermost(known, name) for name in self._named(model))))

    def stages(self, model: Any) -> NoReturn:
        raise ValueError(
            f"{type(model).__name__} has no transformer blocks that methods could split into attention and MLP: take a "
            'method that needs layers, norms or biases alone (LoRA(targets="all-linear"), SSF, BitFit, NormTuning)'
        )

    def final_norms(self, model: Any) -> list[nn.Module]:
        return []

    def map_norms(self, model: Any) -> list[nn.Module]:
        norm: Any = getattr(getattr(model, "head", None), "norm", None)
        return [norm] if isinstance(norm, nn.LayerNorm) else []

    def as_sequence(self, model: Any, features: Tensor) -> Tensor:
        channels_first = features.ndim == 4 and features.shape[1] == model.num_features
        return features.flatten(2).transpose(1, 2) if channels_first else super().as_sequence(model, features)

    def reads_class_token_only(self, model: Any) -> bool:
        return False

    def side_block(self, block: Any, dim: int) -> NoReturn:
        raise AssertionError("there are no blocks")

    def attention_bias(self, attn: Any, q: Tensor, **kwargs: Any) -> NoReturn:
        raise AssertionError("there are no blocks")


def _find_innermost(known: set[str], name: str) -> str:
    """Return ``name`` without the parts that are not ``known``: of "head.fc" "head", of a head that is not there ""."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name
