"""The one error of a config that cannot be run."""

from collections.abc import Iterable

from vision_peft.printable import LONGEST_LINE, printable


class ConfigError(ValueError):
    """A config that cannot be run; the message lists every problem, one a line."""

    def __init__(self, problems: Iterable[str]):
        self.problems = [printable(problem, LONGEST_LINE) for problem in problems]
        super().__init__("\n".join(self.problems))
