"""Say what is wrong with data: everything at once, names with a suggestion."""

from collections.abc import Iterable, Sequence

from vision_peft.printable import LONGEST_LINE, printable
from vision_peft.suggest import did_you_mean


class DataProblems(ValueError):
    """A dataset that cannot be used as it is; `problems` are all that was found, one line each."""

    def __init__(self, text: str, problems: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.problems = list(problems)


class UnknownTask(ValueError):
    """`data.task` names nothing below `data.root`."""


def raise_problems(summary: str, problems: Sequence[str], shown: int = 20) -> None:
    """Raise `DataProblems` that lists the first `shown` of `problems` and counts the rest, unless there are none."""
    if not problems:
        return
    lines = [f"  {printable(problem, LONGEST_LINE)}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  and {len(problems) - shown} more")
    summary = f"{printable(summary, LONGEST_LINE)}: {len(problems)} problem{'s' * (len(problems) > 1)}"
    text = "\n".join([summary, *lines])
    raise DataProblems(text, problems)


def unknown(what: str, got: str, choices: Iterable[str]) -> ValueError:
    """Return the error for a name that is not among `choices`, with the closest one as a suggestion."""
    choices = list(choices)
    hint = did_you_mean(str(got), choices)
    return ValueError(f"unknown {what} {got!r}{hint}: wanted one of {', '.join(map(printable, choices))}")


def quote(text: str) -> str:
    """Quote `text` for a message, without its middle where it is long."""
    return repr(text if len(text) <= 120 else f"{text[:100]}...{text[-15:]}")
