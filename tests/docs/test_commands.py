"""Every command that a page, or the docstring of a verb, shows is one that the program takes."""

import pytest
from support.page_commands import check_command, split_commands
from support.pages import find_blocks, list_pages, read_page

from vision_peft.config.errors import ConfigError

KINDS = {"bash", "python", "text", "json", "yaml", "toml", "csv", "console"}  # console: a command with what it prints
# Records; tests/test_experiments.py has the commands of experiments
LATER = {"docs/results/README.md", "docs/leaderboard.md", "docs/reference/experiments.md"}
ELSEWHERE = {"README.md"}  # tests/test_readme.py runs its commands


def collect(page: str) -> list[tuple[str, list[str]]]:
    """Return every command of a page with its place."""
    blocks = [block for block in find_blocks(page, read_page(page)) if block.kind == "bash"]
    return [(str(block), words) for block in blocks for words in split_commands(block.text)]


def check_page(page: str) -> None:
    """Check every command of a page and list what is wrong with all of them."""
    wrong = []
    for place, words in collect(page):
        try:
            check_command(words)
        except (AssertionError, ValueError, OSError) as error:
            wrong.append(f"{place}: {' '.join(words)}: {error}")
    assert wrong == []


@pytest.mark.parametrize("page", [page for page in list_pages() if page not in LATER | ELSEWHERE])
def test_commands_of_a_page_are_accepted(page: str) -> None:
    check_page(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(LATER))
def test_commands_of_records_are_accepted(page: str) -> None:
    check_page(page)


@pytest.mark.parametrize("page", list_pages())
def test_every_block_says_what_it_is(page: str) -> None:
    assert [str(block) for block in find_blocks(page, read_page(page)) if block.kind not in KINDS] == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("vision-peft trian", "no verb trian"),
        ("vision-peft train method=lroa", "did you mean lora"),
        ("vision-peft train -m method=lora,vtp seed=0,1", "did you mean vpt"),
        ("vision-peft train recipe.lrr=1", "unknown key recipe.lrr"),
        ("vision-peft predict RUN photos --mosaic a.png", "unrecognized arguments"),
        ("vision-peft tune method=lora grid.method.rankk=3 --fnal", "unrecognized arguments"),
        ("vision-peft benchmark --against method=lroa", "did you mean lora"),
        ("python tools/sweep.py sweep=methods", "methods"),
        ("pip install vision_peft[everything]", "everything"),
        ("pytest -m fast", "fast"),
        ("python examples/none.py", "examples/none.py"),
        ("frobnicate", "not a program"),
    ],
)
def test_a_wrong_command_is_told(words: str, error: str) -> None:
    (command,) = split_commands(words)
    with pytest.raises((AssertionError, ConfigError), match=error):
        check_command(command)


def test_commands_are_split_as_a_shell_would() -> None:
    text = (
        'A=1 vision-peft train "a b"  # no\n# none\nfind . | vision-peft predict RUN - > x && cd \\\n y\nexport A=1\n'
    )
    assert list(split_commands(text)) == [
        ["vision-peft", "train", "a b"],
        ["find", "."],
        ["vision-peft", "predict", "RUN", "-"],
        ["cd", "y"],
    ]
