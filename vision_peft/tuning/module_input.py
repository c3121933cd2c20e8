"""Parameters that modules are called on: prompts that pass a projection, embeddings that pass an encoder."""

import torch
from torch import Tensor


def as_input(parameter: Tensor) -> Tensor:
    """Return ``parameter`` as a module may be called on it: without its gradient where none is recorded.

    Under ``torch.no_grad`` and ``torch.inference_mode`` a parameter still asks for a gradient, and hooks that follow
    the inputs of modules back to their gradient function (torch's ``FlopCounterMode``) find none.
    """
    return parameter if torch.is_grad_enabled() else parameter.detach()
