"""Grafts on single layers: what they change, and that nothing is left when they are gone."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from vision_peft.tuning.graft import Graft, children, depth, graft, grafts, kinds, original, override, ungraft


class AddOne(Graft):
    """y + amount · 1."""

    amount: float

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.amount


class AddLinear(Graft):
    """y + side(x)."""

    side: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.side(x)


class AddVector(Graft):
    """y + vector."""

    vector: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.vector


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 3)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(1))


def stack(linear: nn.Linear) -> nn.Linear:
    graft(linear, AddOne, amount=1.0)
    graft(linear, AddLinear, side=nn.Linear(3, 3))
    graft(linear, AddVector, vector=nn.Parameter(torch.randn(3)))
    return linear


def test_a_graft_adds_its_term_and_keeps_the_module_its_parameters_and_their_names(linear, x):
    weight, expected = linear.weight, linear(x)
    graft(linear, AddOne, amount=2.0)
    assert isinstance(linear, nn.Linear)
    assert type(linear).__name__ == "Linear[AddOne]"
    assert linear.weight is weight
    assert list(linear.state_dict()) == ["weight", "bias"]
    torch.testing.assert_close(linear(x), expected + 2.0)


def test_stacked_grafts_add_up_and_are_listed_innermost_first(linear, x):
    plain = copy.deepcopy(linear)
    stack(linear)
    assert kinds(linear) == [AddOne, AddLinear, AddVector]
    torch.testing.assert_close(linear(x), plain(x) + 1.0 + linear.side(x) + linear.vector)


def test_children_are_the_added_modules_and_parameters_without_constants(linear):
    stack(linear)
    assert children(linear) == [("side", linear.side), ("vector", linear.vector)]
    assert set(linear.state_dict()) == {"weight", "bias", "side.weight", "side.bias", "vector"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_of_stacked_grafts_is_equal_independent_and_prunes_to_a_plain_layer(linear, x, copied):
    expected = stack(linear)(x)
    other = copied(linear)
    assert type(other) is type(linear)
    assert torch.equal(other(x), expected)
    with torch.no_grad():
        other.vector += 1
    assert torch.equal(linear(x), expected)
    ungraft(other)
    assert type(other) is nn.Linear
    assert list(other.state_dict()) == ["weight", "bias"]
    assert kinds(linear) == [AddOne, AddLinear, AddVector]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_works(linear, x, protocol):
    expected = stack(linear)(x)
    assert torch.equal(pickle.loads(pickle.dumps(linear, protocol))(x), expected)


def test_torch_save_of_a_whole_grafted_module_loads_again(linear, x, tmp_path):
    expected = stack(linear)(x)
    torch.save(linear, tmp_path / "m.pt")
    assert torch.equal(torch.load(tmp_path / "m.pt", weights_only=False)(x), expected)


def test_a_traced_graft_loads_again(linear, x, tmp_path):
    expected = stack(linear)(x)
    torch.jit.save(torch.jit.trace(linear, x), tmp_path / "m.pt")
    assert torch.equal(torch.jit.load(tmp_path / "m.pt")(x), expected)


def test_the_name_of_the_class_leads_with_the_plain_one_and_lists_what_is_grafted_innermost_first(linear):
    stack(linear)
    assert repr(linear).startswith("Linear[AddOne, Add, AddVector](")


def test_the_same_kind_twice_is_refused_and_changes_nothing(linear):
    graft(linear, AddOne, amount=1.0)
    before = dict(vars(linear))
    with pytest.raises(ValueError, match="AddOne is already attached to this Linear"):
        graft(linear, AddOne, amount=5.0)
    assert vars(linear) == before
    assert (linear.amount, depth(linear)) == (1.0, 1)


@pytest.mark.parametrize("taken", ["weight", "forward", "in_features", "side"])
def test_a_name_that_the_module_has_already_is_refused(linear, taken):
    graft(linear, AddLinear, side=nn.Linear(3, 3))
    with pytest.raises(ValueError, match=rf"already has \['{taken}'\]: AddOne needs these names"):
        graft(linear, AddOne, **{taken: 1.0})
    assert kinds(linear) == [AddLinear]


def test_prune_takes_the_newest_first_and_keeps_as_many_as_told(linear, x):
    plain = copy.deepcopy(linear)
    stack(linear)
    ungraft(linear, keep=2)
    assert kinds(linear) == [AddOne, AddLinear]
    assert not hasattr(linear, "vector")
    ungraft(linear, keep=1)
    assert kinds(linear) == [AddOne]
    torch.testing.assert_close(linear(x), plain(x) + 1.0)
    ungraft(linear, keep=1)
    assert depth(linear) == 1
    ungraft(linear)
    assert type(linear) is nn.Linear
    assert vars(linear).keys() == vars(plain).keys()
    assert torch.equal(linear(x), plain(x))


def test_after_prune_the_same_kind_can_be_grafted_again(linear, x):
    plain = linear(x)
    for amount in (1.0, 2.0):
        graft(linear, AddOne, amount=amount)
        torch.testing.assert_close(linear(x), plain + amount)
        ungraft(linear)


def test_prune_restores_overridden_attributes_through_several_layers(linear):
    override(linear, in_features=7)
    graft(linear, AddOne, amount=1.0)
    override(linear, in_features=9, out_features=11)
    assert (linear.in_features, linear.out_features, depth(linear)) == (9, 11, 3)
    ungraft(linear, keep=2)
    assert (linear.in_features, linear.out_features) == (7, 3)
    ungraft(linear)
    assert (linear.in_features, linear.out_features) == (3, 3)
    assert type(linear) is nn.Linear
    assert depth(linear) == 0


def test_what_an_attribute_was_before_all_overrides_is_told(linear):
    override(linear, in_features=7, dump_patches=True)
    override(linear, in_features=8)
    assert (original(linear, "in_features"), original(linear, "dump_patches")) == (3, False)
    assert original(linear, "out_features") == linear.out_features


def test_an_override_of_an_unknown_attribute_is_refused(linear):
    with pytest.raises(AttributeError):
        override(linear, no_such_attribute=1)
    assert depth(linear) == 0


def test_added_modules_take_the_mode_of_the_module_they_join(linear):
    linear.eval()
    graft(linear, AddLinear, side=nn.Linear(3, 3))
    assert not linear.side.training


def test_grafts_lists_the_grafted_modules_with_their_names(linear):
    model = nn.Sequential(nn.Linear(3, 3), linear)
    graft(linear, AddOne, amount=1.0)
    assert list(grafts(model)) == [("1", linear)]


def test_a_graft_that_is_no_constant_update_refuses_to_fold(linear):
    graft(linear, AddOne, amount=1.0)
    with pytest.raises(ValueError, match=r"Linear\[AddOne\] is not a constant update of the weights it sits on"):
        AddOne.fold(linear)


def test_two_modules_with_the_same_kind_share_one_generated_class(linear):
    other = nn.Linear(2, 2)
    graft(linear, AddOne, amount=1.0)
    graft(other, AddOne, amount=2.0)
    assert type(linear) is type(other)
