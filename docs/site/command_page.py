"""The page of the command line, made of the parsers and docstrings of the verbs."""

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

from omegaconf import OmegaConf
from write_markdown import escape, write_code, write_docstring, write_table

from vision_peft.cli.main import list_verbs
from vision_peft.config.find_configs import find_configs

WIDTH = "100"  # columns of a usage
_GROUPS = """What there is to choose from in each group: [`method=`](method_keys.md), [`data=`](data.md),
[`backbone=`, `recipe=` and all keys beside them](settings.md), [`experiment=`](experiments.md)."""


class ParserFound(Exception):
    """Carries the parser of a verb out of its `main`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def find_parser(verb: str) -> argparse.ArgumentParser | None:
    """Return the parser that a verb makes; None for train, whose words are Hydra's."""
    if verb != "train":
        with _stop_at_parsing():
            try:
                import_module(list_verbs()[verb]).main([])
            except ParserFound as found:
                return found.parser
    return None


@contextmanager
def _stop_at_parsing() -> Iterator[None]:
    def stop(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise ParserFound(parser)

    with mock.patch.multiple(argparse.ArgumentParser, parse_args=stop, parse_intermixed_args=stop):
        yield


def make_page() -> str:
    """Return the page: every verb with its usage, what it says of itself, examples and arguments."""
    verbs = {verb: import_module(module) for verb, module in list_verbs().items()}
    overview = [(f"[`{verb}`](#{verb})", escape(_summarise(module))) for verb, module in verbs.items()]
    return "\n".join(
        [
            "# Command line",
            "",
            "`vision-peft VERB ...`, or `python tools/VERB.py ...` in a clone. `vision-peft VERB --help` prints the",
            "same. Every key that `train` takes is on the page of [settings](settings.md).",
            "",
            write_table(("verb", "what it does"), overview),
            *(_describe(verb) for verb in verbs),
        ]
    )


def _summarise(module: Any) -> str:
    return (module.__doc__ or "").splitlines()[0]


def _describe(verb: str) -> str:
    if verb == "train":
        return _describe_train()
    parser = find_parser(verb)
    assert parser is not None, f"{verb} has no parser"
    with mock.patch.dict(os.environ, COLUMNS=WIDTH):
        usage = parser.format_usage().rstrip()
    summary, _, text = (parser.description or "").partition("\n")
    arguments = [_describe_argument(parser, action) for action in parser._actions if action.dest != "help"]
    table = write_table(("argument", "meaning"), arguments)
    return "\n".join([f"## {verb}", "", summary, "", f"```text\n{usage}\n```", "", write_docstring(text), table])


def _describe_train() -> str:
    """Return the help of train, which is a text of config.yaml; its lists of configs are pages of their own."""
    template = OmegaConf.load(find_configs() / "config.yaml").hydra.help.template
    summary, usage, _, _, *rest = re.split(r"\n\s*\n|\$APP_CONFIG_GROUPS\n", template.strip())
    parts = [f"## train\n\n{summary}", f"```text\nusage: {usage.strip()}\n```", _GROUPS]
    for paragraph in rest:
        title, *lines = paragraph.splitlines()
        rows = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines if line.startswith(" ")]
        if not rows:
            parts.append(paragraph)
        elif title.startswith("Examples"):
            parts.append("\n".join(["```bash", *(f"{command}  # {remark}" for command, remark in rows), "```"]))
        else:
            parts.append(
                write_table((title.rstrip(":").lower(), "meaning"), [(write_code(a), escape(b)) for a, b in rows])
            )
    return "\n\n".join(parts) + "\n"


def _describe_argument(parser: argparse.ArgumentParser, action: argparse.Action) -> Sequence[str]:
    formatter = parser._get_formatter()
    value = formatter._format_args(action, action.dest.upper().replace("_", "-")) if action.nargs != 0 else ""
    names = [*action.option_strings] or [""]
    shown = ", ".join(write_code(f"{name} {value}".strip()) for name in names)
    needed = " Needed." if action.required and action.option_strings else ""
    return shown, escape(formatter._expand_help(action) if action.help else "") + needed
