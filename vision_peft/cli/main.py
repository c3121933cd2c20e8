"""Find the verb that was typed and run it; what a user can fix ends in one line and exit code 2."""

import contextlib
import io
import os
import pkgutil
import sys
import warnings
from ast import get_docstring, parse
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from vision_peft.cli._errors import USER_ERROR, one_line_errors
from vision_peft.late_imports import put_off_imports
from vision_peft.printable import GuardedStream, printable, show
from vision_peft.suggest import did_you_mean


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vision-peft VERB ...` and return its exit code."""
    verb, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    _guard_terminal()
    verbs = list_verbs()
    if verb in ("-h", "--help", "help"):
        show(_overview(verbs))
        return 0
    if verb == "--version":
        import vision_peft as vp

        show(f"vision_peft {vp.__version__}")
        return 0
    if problem := _find_two_packages():
        show(f"error: {problem}", sys.stderr)
        return USER_ERROR
    if verb.replace("_", "-") not in verbs:
        hint = did_you_mean(verb, verbs)
        show(f"error: {printable(verb)} is not a verb{hint}: there are {', '.join(verbs)}", sys.stderr)
        return USER_ERROR
    put_off_imports()
    with _short_warnings(), one_line_errors():
        return import_module(verbs[verb.replace("_", "-")]).main(rest)


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Show our own warnings without the line of code that they come from, those of other libraries as Python does."""
    before, package = warnings.formatwarning, str(Path(__file__).resolve().parents[1]) + os.sep

    def format_warning(message: Any, category: type[Warning], filename: str, *place: Any, **code: Any) -> str:
        if category is UserWarning and str(Path(filename).resolve()).startswith(package):
            return f"warning: {message}\n"
        return before(message, category, filename, *place, **code)

    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = before


def _guard_terminal() -> None:
    """Have nothing that is printed control the terminal, whoever prints it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, GuardedStream.of(stream))


def list_verbs() -> dict[str, str]:
    """Return every verb and its module, found by listing this folder."""
    package = __package__ or "vision_peft.cli"
    files = [info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)])]
    names = [name for name in files if name != "main" and not name.startswith("_")]
    return {name.replace("_", "-"): f"{package}.{name}" for name in sorted(names)}


def _overview(verbs: dict[str, str]) -> str:
    width = max(map(len, verbs)) + 2
    folder = Path(__file__).parent
    texts = {verb: folder.joinpath(f"{verb.replace('-', '_')}.py").read_text(encoding="utf-8") for verb in verbs}
    lines = [f"  {verb:{width}}{(get_docstring(parse(text)) or '').splitlines()[0]}" for verb, text in texts.items()]
    return "\n".join(
        [
            "Tune a frozen vision transformer with a small trainable part.",
            "",
            "  vision-peft VERB ...",
            "",
            *lines,
            "",
            "vision-peft VERB --help explains a verb; vision-peft --version prints the version.",
            "vision-peft train without arguments trains AdaptFormer on handwritten digits.",
        ]
    )


def _find_two_packages() -> str | None:
    """Describe the problem where a clone and an installed package stand in each other's way."""
    package, script = Path(__file__).resolve().parents[1], Path(sys.argv[0]).resolve()
    clone = script.parents[1] if script.parent.name == "tools" else None
    if clone and (clone / "vision_peft" / "__init__.py").is_file() and clone / "vision_peft" != package:
        return (
            f"{script} belongs to the clone {clone}, but Python imports vision_peft from {package}: "
            f"pip install -e {clone}, or use vision-peft {script.stem.replace('_', '-')}"
        )
    on_purpose = {Path(path).resolve() for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}
    if script.name != "__main__.py" or package.parent != Path.cwd() or package.parent in on_purpose:
        return None
    from importlib.metadata import distributions

    elsewhere = [path for path in sys.path if Path(path).resolve() != package.parent]
    found = [Path(str(each.locate_file("vision_peft"))) for each in distributions(name="vision_peft", path=elsewhere)]
    installed = next((path for path in found if path.is_dir()), None)  # none where this clone is installed as editable
    if installed is None:
        return None
    return (
        f"the clone in this folder shadows the package installed in {installed}: start from another folder, or "
        f"pip install -e {package.parent}"
    )
