"""Put off what torchvision, timm and torch's optimisers import and a training in eager mode never uses.

`torch._dynamo`, the front end of `torch.compile`, takes more than a second of CPU to import, and importing torchvision
or doing one step of an optimiser imports it. What they ask of it acts inside a compiled function only. timm imports
`wandb` for one function of its own. So a package of that name stands in for each: it answers what is asked of it then,
and the real one takes its place when anything else is asked for. `torch.compile` finds all as it was. The same goes for
torch's sizes of symbols, which `torch.autograd.grad` imports to compare two sizes of numbers.

Only programs that this package starts put anything off (`cli/main.py`); `import vision_peft` does not. What torch asks
of its own packages differs from version to version: with another one than this was tried with, nothing is put off.
"""

import gc
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

DYNAMO = "torch._dynamo"
SYMBOLS = "torch.fx.experimental.symbolic_shapes"  # whose import is that of sympy
PACKAGES = (DYNAMO, SYMBOLS, "wandb")
TRIED = "2.14."  # how the version of torch begins
STANDING_IN = (*PACKAGES, f"{DYNAMO}.utils")


def put_off_imports() -> None:
    """Have the packages named above imported when they are first used, as far as they have not been imported yet."""
    try:
        tried = version("torch").startswith(TRIED)
    except PackageNotFoundError:  # a build that does not tell
        tried = False
    if not tried:
        return
    finders = [finder for finder in sys.meta_path if isinstance(finder, _Late)]
    known = {finder.package for finder in finders}
    sys.meta_path[:0] = [_Late(package) for package in PACKAGES if package not in known | sys.modules.keys()]


def import_frameworks() -> None:
    """Import torch and timm while nobody searches for garbage: what they make stays, and is never searched again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("torch")
        importlib.import_module("timm")
        gc.freeze()
    finally:
        if collecting:
            gc.enable()


class _Late(MetaPathFinder):
    """Finds the stand-in of a package as long as nobody has needed the real one."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.real: ModuleType | None = None
        self.settings: dict[str, Any] = {}  # of `torch._dynamo.config`, given before there was one

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not f"{fullname}.".startswith(f"{self.package}.") or self.real is not None:
            return None
        if fullname in STANDING_IN:
            there = fullname != self.package or PathFinder.find_spec(fullname, path) is not None
            return ModuleSpec(fullname, _StandInLoader(self), is_package=fullname == self.package) if there else None
        real = self.load()  # another module of the package
        known = sys.modules.get(fullname)
        if known is None:
            return PathFinder.find_spec(fullname, real.__path__)  # `path` is the stand-in's
        return ModuleSpec(fullname, _KnownLoader(known))

    def load(self) -> ModuleType:
        """Import the real package in place of the stand-ins."""
        if self.real is None:
            sys.meta_path.remove(self)
            for name in [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]:
                if f"{name}.".startswith(f"{self.package}."):
                    del sys.modules[name]
            parent, _, child = self.package.rpartition(".")
            if parent:
                vars(sys.modules[parent]).pop(child, None)
            self.real = importlib.import_module(self.package)
            for name, value in self.settings.items():
                setattr(self.real.config, name, value)
        return self.real


class _StandIn(ModuleType):
    """A module that is replaced by the real one when something is asked of it that it does not have."""

    def __init__(self, name: str, load: Callable[[], ModuleType]) -> None:
        super().__init__(name)
        self._load = load

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python asks of every module
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self._load()
        return getattr(importlib.import_module(self.__name__), name)


class _StandInLoader(Loader):
    def __init__(self, late: _Late) -> None:
        self.late = late

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name, self.late.load)

    def exec_module(self, module: Any) -> None:
        late = self.late
        if module.__name__ == f"{DYNAMO}.utils":
            module.is_compile_supported = lambda device: late.load().utils.is_compile_supported(device)
        elif module.__name__ == DYNAMO:
            module.config = _Config(late)
            module.graph_break = lambda *given: None if late.real is None else late.real.graph_break(*given)
            module.disable = lambda *given, **options: _disable(late, given, options)
        elif module.__name__ == SYMBOLS:  # what torch.autograd.grad asks when it is given gradients
            module.expect_true = lambda truth: truth if type(truth) is bool else late.load().expect_true(truth)
            module.sym_eq = lambda one, other: _compare_sizes(late, one, other)


def _disable(late: _Late, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return the function as it is until there is a compiler that could trace it, then as the real `disable` has it."""
    if late.real is not None or not given or not callable(given[0]):
        return late.load().disable(*given, **options)
    function, disabled = given[0], list[Callable[..., Any]]()

    def call(*arguments: Any, **keywords: Any) -> Any:
        if late.real is None:
            return function(*arguments, **keywords)
        if not disabled:
            disabled.append(late.real.disable(*given, **options))
        return disabled[0](*arguments, **keywords)

    return call


def _compare_sizes(late: _Late, one: Any, other: Any) -> Any:
    """Compare sizes of numbers; the real module knows sizes of symbols."""
    if all(isinstance(size, tuple) and all(type(side) is int for side in size) for size in (one, other)):
        return tuple(one) == tuple(other)
    return late.load().sym_eq(one, other)


class _Config:
    """Settings of a package that are kept until it is there."""

    def __init__(self, late: _Late) -> None:
        vars(self)["_late"] = late

    def __setattr__(self, name: str, value: Any) -> None:
        if self._late.real is None:
            self._late.settings[name] = value
        else:
            setattr(self._late.real.config, name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._late.load().config, name)


class _KnownLoader(Loader):
    """Gives a module that is there already: importing its package for real, on the way to it, has imported it."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec
