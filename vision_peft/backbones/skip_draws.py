"""Build a model whose random weights a file replaces without drawing them: half the time that building one takes."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DRAWS = (init.uniform_, init.normal_, init.kaiming_uniform_, init.kaiming_normal_)
_FINISH_A_DRAW = (Tensor.erfinv_, Tensor.mul_, Tensor.div_, Tensor.add_, Tensor.clamp_)  # timm's truncated normals do


class SkipDraws(TorchFunctionMode):
    """Inside, parameters that would be filled with random numbers keep what their memory holds.

    torch's own truncated normals are drawn: they draw until all numbers are within the bounds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._drawn: dict[int, Tensor] = {}  # by the place of their memory, which nobody else gets as long as they live

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        if func in _DRAWS or (func is Tensor.uniform_ and "generator" not in keywords):  # timm's gives none
            tensor = args[0] if args else keywords["tensor"]
            if isinstance(tensor, nn.Parameter):
                self._drawn[_place(tensor)] = tensor
                return tensor
        if func in _FINISH_A_DRAW and _place(args[0]) in self._drawn:
            return args[0]
        if func is Tensor.copy_:
            self._drawn.pop(_place(args[0]), None)
        return func(*args, **keywords)

    def list_left(self, model: nn.Module) -> list[str]:
        """Name the parameters and buffers of `model` that were to be drawn and into which nothing was copied since."""
        return [name for name, tensor in model.state_dict().items() if _place(tensor) in self._drawn]


def build_to_load(build: Callable[[], nn.Module]) -> nn.Module:
    """Call `build`, which makes a model and loads a file into it; where that leaves random weights they are drawn."""
    with SkipDraws() as draws:
        model = build()
    return build() if draws.list_left(model) else model


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
