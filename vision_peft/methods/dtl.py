"""DTL and DTL+, disentangled transfer learning (Fu, Zhu and Wu, AAAI 2024, https://arxiv.org/abs/2312.07856).

A side state h beside the frozen blocks, low-rank sums of what enters them, which comes back behind the last blocks:

    h ← h + B_i A_i x   for the input x of every fed block i,  h = 0 in front of the first,
    x ← block_i(x) + g(h)   behind every added block,  g(h) = h σ(β h), for β = 100 almost ReLU.

h sums what is not activated yet; A_i of a later block reads the stream that g(h) has joined. Blocks in front of the
first added one are in no graph: training keeps their inputs and nothing else of them. DTL+ (``kernel``) passes the
patches of g(h) through a depthwise convolution that all blocks share; prefix tokens are added as they are.

Source: heekhero/DTL@bf6c51e models/vision_transformer.py, train_vit_vtab.py. A starts as ``nn.Linear``, B from zero,
the convolution as ``nn.Conv2d``: at the first step only B has a gradient. Deviations: any grid and number of prefix
tokens (14 x 14 and one are fixed there); the time steps of tubelets are convolved one by one; a norm that ends a block
acts on the sum. As in the Swin of that code every stage has a state and a convolution of its own; ``added`` counts over
all stages, and a stage without an added block learns nothing. Fed blocks behind which nothing is added have no A and B.

That code reads norm(mean of the patches) with the norm of the checkpoint: in timm ``global_pool="avg"`` with the
weights of ``norm`` in ``fc_norm``. A method leaves the readout alone, so that is a choice of the backbone.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod, check_blocks, choose_blocks
from vision_peft.tuning.blocks import KEEPS_WIDTH, blocks, stages, width
from vision_peft.tuning.graft import graft
from vision_peft.tuning.method import positive
from vision_peft.tuning.needs import Need
from vision_peft.tuning.patch_grid import PATCH_GRID, GridBlock, GridNow, patch_grid, time_steps
from vision_peft.tuning.thread_state import InputMemory, ThreadState

Term = tuple[Tensor, Tensor]  # A x (B ... r) of a fed block, and its B (D r)


class LowRankMap(nn.Module):
    """A (r D) and B (D r) of one fed block."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.A = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, dim), a=math.sqrt(5)))
        self.B = nn.Parameter(torch.zeros(dim, rank))


class SideOutput(nn.Module):
    """g(h) of tokens (B N D), whose last steps x rows x columns are the patches, or of maps (B H W D)."""

    def __init__(self, dim: int, grid: GridNow | None, steps: int, method: "DTL") -> None:
        super().__init__()
        self.beta, self.grid, self.steps = method.beta, grid, steps
        k = method.kernel
        self.conv = None if k is None else nn.Conv2d(dim, dim, k, padding=(k - 1) // 2, groups=dim, bias=False)
        self.surplus = 0 if k is None or k % 2 else 1  # an even kernel reaches further to the right and downwards

    def forward(self, h: Tensor) -> Tensor:
        g = F.silu(self.beta * h) / self.beta
        if self.conv is None:
            return g
        if self.grid is None:
            return self._convolve_maps(self.conv, g)
        rows, columns = self.grid.now()
        prefix, patches = g.tensor_split([g.shape[1] - self.steps * rows * columns], dim=1)
        maps = self._convolve_maps(self.conv, patches.unflatten(1, (self.steps, rows, columns)).flatten(0, 1))
        return torch.cat([prefix, maps.unflatten(0, (-1, self.steps)).flatten(1, 3)], dim=1)

    def _convolve_maps(self, conv: nn.Conv2d, maps: Tensor) -> Tensor:
        maps = maps.permute(0, 3, 1, 2)
        maps = F.pad(maps, (0, self.surplus, 0, self.surplus)) if self.surplus else maps
        return conv(maps).permute(0, 2, 3, 1)


class SideState(ThreadState):
    """The terms of h in a thread's current forward of a stage, by the number of their block.

    Of a block that runs again in the backward pass they are those of the forward it belongs to.
    """

    def __init__(self) -> None:
        super().__init__()
        self._of_inputs = InputMemory()

    @property
    def terms(self) -> dict[int, Term]:
        """Those that this thread holds, to be read."""
        return getattr(self.own, "terms", {})

    def h(self) -> Tensor:
        """Return the sum of all terms, (B ... D)."""
        terms = self.terms.values()
        return F.linear(torch.cat([z for z, _ in terms], -1), torch.cat([B for _, B in terms], -1))

    def enter(self, number: int, x: Tensor) -> None:
        """Go back to the terms in front of block ``number``, which ``x`` enters."""
        self.own.terms = self._of_inputs.recall(x, self._before(number))

    def add(self, number: int, term: Term | None) -> None:
        """Let the term of block ``number``, if it is fed, follow those in front of it."""
        self.own.terms = {**self._before(number), **({} if term is None else {number: term})}

    def clear(self) -> None:
        """Let go of all terms."""
        self.own.terms = {}

    def _before(self, number: int) -> dict[int, Term]:
        return {i: term for i, term in self.terms.items() if i < number}


class DTLBlock(GridBlock):
    """Feeds the side state with what enters the block, or adds g(h) to what leaves it, or both."""

    dtl: LowRankMap | None  # of a fed block
    dtl_shared: tuple[SideOutput, ...]  # of an added block: that of the stage, which lives on its first fed block
    dtl_state: SideState
    dtl_number: int

    def grid_now(self) -> GridNow | None:
        return self.dtl_shared[0].grid if self.dtl_shared else None

    def note_input(self, x: Tensor) -> None:
        self.dtl_state.enter(self.dtl_number, x)
        super().note_input(x)

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        term = None if self.dtl is None else (F.linear(x, self.dtl.A), self.dtl.B)
        self.dtl_state.add(self.dtl_number, term)
        return super().attn_half(x, **kwargs)

    def mlp_half(self, x: Tensor) -> Tensor:
        y = super().mlp_half(x)
        return y + self.dtl_shared[0](self.dtl_state.h()) if self.dtl_shared else y

    def forget(self) -> None:
        self.dtl_state.clear()


@dataclass(frozen=True)
class DTL(BlockMethod):
    """A side path that reads every block and joins the last ones; the blocks before keep no activations."""

    name: ClassVar[str] = "dtl"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-2}

    rank: int = 2  # r of every A and B
    kernel: int | None = None  # side of the convolution of DTL+; 3, 4 or 5 in the code, null: DTL
    beta: float = 100.0  # β of the activation
    fed: str | tuple[int, ...] = "all"  # blocks whose input is read, chosen among ``blocks`` as those are
    added: str | tuple[int, ...] = "last 6"  # blocks behind which g(h) is added, likewise; of fewer than 6 all

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(rank=self.rank, beta=self.beta, **({} if self.kernel is None else {"kernel": self.kernel}))
        check_blocks(self.fed, "fed")
        check_blocks(self.added, "added")

    @classmethod
    def choose_title(cls, fields: Mapping[str, Any]) -> str:
        return "DTL" if fields.get("kernel") is None else "DTL+"

    @classmethod
    def as_published(cls, **fields: Any) -> "DTL":
        """Give the released code: the default. Its readout is the backbone's, see the top of this file."""
        return cls(**fields)

    @property
    def needs(self) -> tuple[Need, ...]:
        return (*super().needs, KEEPS_WIDTH, *(() if self.kernel is None else (PATCH_GRID,)))

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: Any) -> None:
        chosen = self.chosen_blocks(model)
        fed, added = _choose(self.fed, chosen, "fed"), _choose(self.added, chosen, "added")
        grid = None if self.kernel is None else patch_grid(model)
        steps = 1 if grid is None else time_steps(model)
        numbers = {block: number for number, block in enumerate(blocks(model))}
        for members in stages(model):
            feeding = [block for block in members if block in fed]
            adding = [block for block in members if block in added]
            if adding and not (feeding and numbers[feeding[0]] <= numbers[adding[0]]):
                raise ValueError(
                    f"g(h) cannot be added behind block {numbers[adding[0]]}: no block is fed before it"
                    f"{'' if members[0] is chosen[0] else ' in its stage'}; got fed={self.fed!r}, added={self.added!r}"
                )
            output = SideOutput(width(members[0]), grid, steps, self)
            state = SideState()
            for block in members[members.index(feeding[0]) : members.index(adding[-1]) + 1] if adding else []:
                children: dict[str, Any] = {"dtl_output": output} if block is feeding[0] else {}
                graft(
                    block,
                    DTLBlock,
                    dtl=LowRankMap(width(block), self.rank) if block in feeding else None,
                    dtl_shared=(output,) if block in adding else (),
                    dtl_state=state,
                    dtl_number=numbers[block],
                    **children,
                )


def _choose(wanted: str | tuple[int, ...], chosen: list[Any], field: str) -> list[Any]:
    """List the blocks that ``fed`` or ``added`` means among the chosen ones; "last 6" of fewer is all of them."""
    ends = re.fullmatch(r"(?:first|last) ([0-9]+)", wanted) if isinstance(wanted, str) else None
    return chosen if ends and int(ends[1]) >= len(chosen) else choose_blocks(wanted, chosen, field)
