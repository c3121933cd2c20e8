"""The patch grid that a flat ViT is working on, and timm's drop-path without what is grafted onto it."""

from collections.abc import Callable
from typing import Any

from timm.layers import DropPath
from timm.layers import drop_path as _drop_path
from torch import Tensor, nn

from vision_peft.tuning.blocks import BlockGraft, blocks
from vision_peft.tuning.families import family_of
from vision_peft.tuning.families.flat import FlatFamily
from vision_peft.tuning.graft import Graft, graft, kinds
from vision_peft.tuning.needs import Need
from vision_peft.tuning.thread_state import InputMemory, ThreadState

Grid = tuple[int, int]  # rows, columns of patches


class GridNow(ThreadState):
    """The grid of the forward that a thread is in; of a block that runs again, that of the forward it belongs to.

    Args:
        grid: where nothing was noted yet.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self._last = grid  # of any thread, for those that noted none
        self._of_inputs = InputMemory()

    def __reduce__(self) -> tuple[Any, ...]:
        return GridNow, (self._last,)

    def note(self, grid: Grid) -> None:
        """Take the grid of the forward that begins."""
        self.own.grid = self._last = grid

    def enter(self, x: Tensor) -> None:
        """Note that ``x`` enters a block, which may have to know its grid again in the backward pass."""
        self.own.grid = self._of_inputs.recall(x, self.now())

    def now(self) -> Grid:
        """Return (rows, columns)."""
        return getattr(self.own, "grid", self._last)


class PatchGrid(Graft):
    """A patch embedding that notes (rows, columns) of every batch: models with ``dynamic_img_size`` change them."""

    adds_nothing = True
    patch_grid: GridNow
    grid_of_size: Callable[[Any, tuple[int, int]], Grid]

    def forward(self, x: Tensor) -> Any:
        self.patch_grid.note(self.grid_of_size(self, (x.shape[-2], x.shape[-1])))
        return super().forward(x)

    def fold(self) -> None:
        """Nothing was added to the weights."""


class GridBlock(BlockGraft):
    """A block whose graft reads the grid of its patches: ``grid_now`` gives it."""

    def note_input(self, x: Tensor) -> None:
        grid = self.grid_now()
        if grid is not None:
            grid.enter(x)
        super().note_input(x)

    def grid_now(self) -> GridNow | None:
        """Return what tells the grid; None where tokens are maps."""
        raise NotImplementedError


def patch_grid(model: Any) -> GridNow | None:
    """Return what tells (rows, columns) of the patches in the current forward; None where tokens are maps.

    The patches are the last ``time_steps`` x rows x columns tokens of the sequence, whatever prefix tokens and prompts
    come before. Blocks that read it are ``GridBlock``.

    Raises:
        ValueError: the model drops patches in training, or does not tell its grid.
    """
    check_patch_grid(model)
    family = family_of(model)
    if not isinstance(family, FlatFamily):
        return None
    embed = family.patch_embedding(model)
    if PatchGrid not in kinds(embed):
        grid = family.grid_of_size(embed, embed.img_size)
        graft(embed, PatchGrid, patch_grid=GridNow(grid), grid_of_size=family.grid_of_size)
    return vars(embed)["patch_grid"]


def check_patch_grid(model: Any) -> None:
    """Check that the tokens of a block hold one grid of patches, or are a map.

    Raises:
        ValueError: they stand in another order, on a grid that shrinks with attention, on one of each image's own, or
            are dropped in training.
    """
    blocks(model)
    family = family_of(model)
    if not family.has_grid:
        raise ValueError(f"the tokens of a {type(model).__name__} are not a grid of patches in row order")
    if not isinstance(family, FlatFamily):
        return
    if family.grid_varies(model):
        raise ValueError(f"the patches of a {type(model).__name__} form another grid in every image of a batch")
    if family.drops_patches(model):
        raise ValueError(
            f"this {type(model).__name__} drops patches (patch_drop_rate): those left form no grid; create it without"
        )


PATCH_GRID = Need("patches on a grid", check_patch_grid)


def check_patch_sequence(model: Any) -> None:
    """Check that the tokens of a block are one sequence that ends in a grid of patches.

    Raises:
        ValueError: they are a map, cut into windows.
    """
    if not isinstance(family_of(model), FlatFamily):
        raise ValueError(f"{type(model).__name__} works on maps in windows: wanted a ViT with one grid of patches")


PATCH_SEQUENCE = Need("one grid of patches in the sequence", check_patch_sequence)


def time_steps(model: Any) -> int:
    """Count the grids of patches in a sequence: time steps of tubelets, 1 for images and single frames."""
    grid: tuple[int, ...] = getattr(family_of(model).patch_embedding(model), "grid_size", ())  # XCiT's has none
    return grid[0] if len(grid) == 3 else 1


def drop_path(path: nn.Module, y: Tensor) -> Tensor:
    """Pass ``y`` through the drop-path ``path`` of a block, with a mask of its own, past adapters that sit on it."""
    if isinstance(path, DropPath):
        return _drop_path(y, path.drop_prob, path.training, path.scale_by_keep)
    return y
