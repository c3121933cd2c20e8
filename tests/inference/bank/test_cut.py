"""Cutting one module: what a task's graft changes stays on its rows, and nothing else is touched."""

from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.inference.bank.cut import Cut, FromShortcut, Plan, Shortcut, View
from vision_peft.tuning.graft import Graft, graft


class Layer(nn.Module):
    """x times a factor that is given with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, x: Tensor, factor: Any = 1) -> Tensor:
        self.rows.append(len(x))
        return x * factor


class AddOne(Graft):
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(x, *args, **kwargs) + 1


class AskWithTen(Graft):
    def forward(self, x: Tensor, factor: Any = 1) -> Tensor:
        return super().forward(x, 10)


class ChangeInput(Graft):
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(x - 1, *args, **kwargs)


def cut(frozen: nn.Module, kinds: dict[int, type[Graft]]) -> tuple[nn.Module, Plan]:
    """``frozen``, cut for tasks of these numbers, each with one graft."""
    plan, views = Plan(), {}
    for task, kind in kinds.items():
        module, shortcut = type(frozen)(), Shortcut()
        graft(module, FromShortcut, bank_shortcut=shortcut)
        graft(module, kind)
        views[task] = View(module, shortcut)
    graft(frozen, Cut, bank_views=views, bank_plan=plan)
    return frozen, plan


def test_the_input_of_an_identity_is_not_written_over():
    layer, plan = cut(nn.Identity(), {2: AddOne})
    x = torch.arange(8.0).view(4, 2)
    before = x.clone()
    for _ in range(2):
        with plan.only([(1, 1), (2, 2), (3, 1)]):
            assert torch.equal(layer(x), before + torch.tensor([[0.0], [1], [1], [0]]))
        assert torch.equal(x, before)


def test_the_frozen_layer_runs_once_for_grafts_that_ask_it_as_it_is():
    frozen = Layer()
    layer, plan = cut(frozen, {1: AddOne, 2: ChangeInput, 3: AskWithTen})
    x = torch.arange(8.0).view(4, 2)
    expected = torch.cat([3 * x[:1] + 1, 3 * (x[1:2] - 1), 10 * x[2:3], 3 * x[3:]])
    for _ in range(3):
        frozen.rows.clear()
        with plan.only([(1, 1), (2, 1), (3, 1), (4, 1)]):
            assert torch.equal(layer(x, 3), expected)
    assert frozen.rows == [1, 1]  # that of task 1, and that of task 4, which has no graft


def test_rows_of_an_image_stay_together_and_an_inner_cut_sees_what_the_outer_left():
    inner, plan = cut(Layer(), {1: AddOne, 2: AddOne})

    class Outer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return inner(x)

    own, outer = nn.Flatten(), Outer()
    graft(outer, Cut, bank_views={1: View(own, None)}, bank_plan=plan)
    x = torch.zeros(6, 2)
    with plan.only([(1, 1), (2, 1), (3, 1)]):
        assert outer(x)[:, 0].tolist() == [0, 0, 1, 1, 0, 0]  # two rows an image


def test_narrower_outputs_are_filled_up_and_their_width_is_noted():
    layer, plan = nn.Identity(), Plan()
    heads = {1: View(nn.Linear(4, 2), None), 2: View(nn.Linear(4, 5), None)}
    graft(layer, Cut, bank_views=heads, bank_plan=plan)
    with plan.only([(1, 2), (2, 1)]):
        assert layer(torch.ones(3, 4)).shape == (3, 5)
    assert plan.widths == {1: 2, 2: 5}
