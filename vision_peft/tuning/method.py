"""The abstract method: a frozen dataclass of hyper-parameters that knows how to attach itself to a backbone."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar

from torch import nn

from vision_peft.fields import Checked
from vision_peft.tuning.blocks import BLOCKS
from vision_peft.tuning.needs import Need
from vision_peft.tuning.samples import SamplesNeeded


@dataclass(frozen=True)
class Method(Checked, ABC):
    """Hyper-parameters of one way to tune a frozen backbone.

    A subclass is a frozen dataclass whose fields are what a user types (``method.bottleneck=8``); choices are plain
    strings checked in ``__post_init__``. It sets ``name``, which is also the name of its config file.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # what papers call it, for tables and plots; by default the name of the class
    task_kinds: ClassVar[tuple[str, ...]] = ()  # of data.task_kind that it is for; (): all
    recommended: ClassVar[Mapping[str, float]] = {}  # recipe.lr, epochs, weight_decay where the user gives none

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.__repr__ = Method.__repr__  # a dataclass would write its own, in which fields of a base come first

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.recorded_fields().items())
        return f"{type(self).__name__}({shown})"

    @classmethod
    def choose_title(cls, fields: Mapping[str, Any]) -> str:
        """Return what tables and plots call the method: "Adapter+"; a method whose `fields` have names says so here.

        Args:
            fields: as some version recorded them, of any values.
        """
        return cls.__dict__.get("title", cls.__name__)

    @classmethod
    def read_fields(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return recorded fields under the names of today; a method whose fields had other names says so here."""
        return dict(recorded)

    def recorded_fields(self) -> dict[str, Any]:
        """Return what files and messages hold of the fields: keyword-only ones at their default are left out.

        So a keyword-only field that a later version adds changes neither names nor rows of what was run before.
        """
        ordered = [
            (item, getattr(self, item.name)) for item in sorted(fields(self), key=lambda item: bool(item.kw_only))
        ]
        return {item.name: value for item, value in ordered if not item.kw_only or value != default_of(item)}

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the backbone must have; ``vp.attach`` refuses a backbone without it before anything changes.

        The default is transformer blocks; a method that does without them, on any model of timm, returns nothing. List
        a need here and ``attach`` can rely on it; the matrix of the tests then expects the refusal, and checks that it
        is true of the family and that the method cannot do without.
        """
        return (BLOCKS,)

    @property
    def bake_before_compile(self) -> str | None:
        """What ``torch.compile(fullgraph=True)`` cannot trace until ``vp.bake`` takes it away; None: it traces all."""
        return None

    @property
    def starts_as_identity(self) -> bool:
        """Whether the tuned model computes the pretrained function until the first training step."""
        return False

    @property
    def starts_from_weights(self) -> bool:
        """Whether start values are made of the frozen weights, so that those have to be there first."""
        return False

    def find_misfit(self, model: nn.Module) -> str | None:
        """Say why a load onto the frozen weights of ``model`` as they are now would compute something else.

        It is asked where they are not those of ``attach``. None: what is stored computes the same over any of them.
        """
        return None

    @property
    def changes_features(self) -> bool:
        """Whether more than the head learns; parts of a backbone that train with every method do so only then."""
        return True

    @property
    def brings_head(self) -> bool:
        """Whether the method puts its own head in place of the recipe's, and nothing trains."""
        return False

    @property
    def samples_needed(self) -> SamplesNeeded | None:
        """Images that ``initialise`` must get; None: the method takes none."""
        return None

    @property
    def remark(self) -> str | None:
        """What the log of a training says about these fields, where they might be taken for something else."""
        return None

    def baked(self) -> "Method":
        """Return the method that the model has after ``bake``: without training-time re-parametrisation."""
        return self

    def merged(self) -> "Method | None":
        """Return the method that ``merge`` leaves on the model, for what no weights express; None: it folds whole."""
        return None

    def initialise(self, model: nn.Module, samples: Iterable[Any] | None) -> "Method | None":
        """Set start values that come from data, after ``attach``; ``samples`` as given to ``vp.attach``.

        Returns:
            The method that is attached now, where the data decided about its fields (ranks, say): the model and its
            adapters record that one, and it attaches without data what this call made. None: it is the same.

        Raises:
            ValueError: the data does not fit, with the reason. Nothing has to be undone.
        """

    def finish_step(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Act on a step that the optimiser has taken, while its gradients are there; see ``vp.finish_step``."""

    @abstractmethod
    def attach(self, model: nn.Module) -> None:
        """Graft onto ``model``, whose parameters are frozen already; what is added or unfrozen here trains.

        Raises:
            ValueError: these fields do not fit this backbone, with the reason. Nothing has to be undone.
        """


def default_of(item: Field[Any]) -> Any:
    """Return the default of a field of a dataclass, MISSING where it has none."""
    return item.default if item.default_factory is MISSING else item.default_factory()


def one_of(field: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Check a hyper-parameter against its choices.

    Raises:
        ValueError: ``value`` is none of ``choices``.
    """
    if value not in choices:
        raise ValueError(f"{field} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def some_of(field: str, values: tuple[Any, ...], choices: tuple[Any, ...]) -> None:
    """Check a hyper-parameter that names one or more of its choices, each once.

    Raises:
        ValueError: ``values`` is empty, repeats itself or holds something else.
    """
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{field} must be distinct and at least one of {', '.join(map(repr, choices))}; got {values}")
    for value in values:
        one_of(field, value, choices)


def positive(**fields: int | float) -> None:
    """Check that hyper-parameters are numbers above zero.

    Raises:
        ValueError: one of them is not.
    """
    for field, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{field} must be a number above 0; got {value!r}")


def probability(**fields: float) -> None:
    """Check that dropout rates lie in [0, 1).

    Raises:
        ValueError: one of them does not.
    """
    for field, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(f"{field} must lie in [0, 1); got {value!r}")
