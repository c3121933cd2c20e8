"""Packing the frozen weights of a backbone, before anything is attached to it."""

import logging
from typing import Any, cast

from torch import Tensor, nn

from vision_peft.tuning import record
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.fingerprint import FINGERPRINT, fingerprint
from vision_peft.tuning.method import one_of
from vision_peft.tuning.packed_linear import BLOCK, QuantizedLinear, quantized_as

DTYPES = ("int8", "nf4")
SCALE_BLOCK = 256  # scales that share theirs in nf4

_log = logging.getLogger(__name__)


def quantize_backbone(model: Any, dtype: str = "int8") -> Any:
    """Pack the weights of the linear layers of ``model`` in place, before anything is attached; the head stays.

    Methods that train none of these weights attach as before, and their adapters are told apart by the fingerprint
    of the weights as they were. Convolutions, norms, biases and positions stay in fp32, as do, in nf4, layers whose
    weights are no multiple of 64.

    Args:
        model: a timm model on the CPU or a GPU, in fp32, without methods.
        dtype: ``int8`` (a quarter of fp32) or ``nf4`` (an eighth).

    Returns:
        The same model.

    Raises:
        ValueError: another dtype, methods are attached, or the weights are packed already.
        ImportError: torchao is not installed.
    """
    one_of("dtype", dtype, DTYPES)
    if record.find(model) is not None:
        raise ValueError("quantize the backbone before methods are attached: this model has some")
    if (known := quantized_as(model)) is not None:
        raise ValueError(f"the weights of this model are {known} already")
    heads = tuple(f"{name}." for name in classifier_names(model))
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and not f"{name}.".startswith(heads)
    }
    pack = _packer(dtype)
    fitting = {name: layer for name, layer in layers.items() if dtype == "int8" or layer.weight.numel() % BLOCK == 0}
    if not fitting:
        raise ValueError(f"this {type(model).__name__} has no linear layers to keep in {dtype}")
    if len(fitting) < len(layers):
        _log.info("%d of %d linear layers stay in fp32: their sizes are not multiples of "
                "%d", len(layers) - len(fitting),
                  len(layers), BLOCK)  # fmt: skip
    model.__dict__[FINGERPRINT] = fingerprint(model)
    for layer in cast(dict[str, Any], fitting).values():
        tensors = pack(layer.weight.detach().float().contiguous())
        del layer._parameters["weight"]
        layer.__class__ = QuantizedLinear
        layer.packed_dtype = dtype
        for name, tensor in tensors.items():
            layer.register_buffer(name, tensor)
    return model


def _packer(dtype: str) -> Any:
    about_enums = logging.getLogger("torch.utils._pytree")  # which warns of torchao's own enumerations
    level = about_enums.level
    about_enums.setLevel(logging.ERROR)
    try:
        from torchao.quantization import Int8Tensor, PerRow, to_nf4
    except ImportError as error:
        raise ImportError(f"{dtype} weights need torchao: pip install 'vision_peft[quant]' ({error})") from None
    finally:
        about_enums.setLevel(level)

    def pack_int8(weight: Tensor) -> dict[str, Tensor]:
        found: Any = Int8Tensor.from_hp(weight, PerRow())
        return {"packed": found.qdata, "scale": found.scale}

    def pack_nf4(weight: Tensor) -> dict[str, Tensor]:
        scales = weight.numel() // BLOCK
        found: Any = to_nf4(weight, BLOCK, next(n for n in range(SCALE_BLOCK, 0, -1) if scales % n == 0))
        return {
            "packed": found.quantized_data,
            "scale": found.quantized_scalers,
            "scale_factor": found.quantization_factor,
            "scale_mean": found.scaler_mean,
            "code": found.nf4,
        }

    return pack_int8 if dtype == "int8" else pack_nf4
