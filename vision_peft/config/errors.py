"""The one error of a config that cannot be run."""

from collections.abc import Iterable


class ConfigError(ValueError):
    """A config that cannot be run; the message lists every problem, one a line."""

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))
