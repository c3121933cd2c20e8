"""The page about training tells what the code does: its keys, its exit codes, commands that compose."""

import dataclasses
import re
import shlex
from pathlib import Path

from vision_peft.cli._errors import REQUEUE
from vision_peft.cli.main import list_verbs
from vision_peft.config.command_line import compose_config
from vision_peft.config.schema import STRATEGIES, Distributed, Settings
from vision_peft.distributed.stopping import REQUEUE_FILE
from vision_peft.training.progress import LONGEST_UNSAVED_SECONDS, SHORTEST_BETWEEN_EPOCHS_SECONDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_every_key_of_distributed_is_there_with_its_default() -> None:
    for field in dataclasses.fields(Distributed):
        (line,) = (line for line in TEXT.splitlines() if line.startswith(f"| `distributed.{field.name}` "))
        assert line.split("|")[2].strip().strip("`") == str(field.default)
    assert all(f"`{strategy}`: " in TEXT for strategy in STRATEGIES)


def test_the_keys_of_the_table_exist() -> None:
    known = {field.name for field in dataclasses.fields(Settings)}
    table = TEXT.partition("## Keys")[2].partition("\n\n**")[0]
    keys = {
        key
        for line in table.splitlines()
        for key in re.findall(r"`([\w.]+)`", line.split("|")[1] if "|" in line else "")
    }
    assert {key for key in keys if not key.startswith("distributed.")} <= known
    assert {"save_every", "max_time", "requeue_file", "backbone_dtype"} <= keys


def test_codes_files_and_times_are_those_of_the_code() -> None:
    assert re.search(rf"^\| SIGTERM, SIGUSR1, `max_time` \| {REQUEUE} \|", TEXT, re.MULTILINE)
    assert f"`{REQUEUE_FILE}` in the run folder" in TEXT
    assert (
        f"at least {SHORTEST_BETWEEN_EPOCHS_SECONDS} s apart, and every {LONGEST_UNSAVED_SECONDS // 60} minutes" in TEXT
    )


def test_the_commands_of_the_page_compose(repository: Path) -> None:
    texts = re.findall(r"`([^`]+)`", TEXT)
    commands = [shlex.split(text) for text in texts if re.search(r"tools/| vision_peft |^vision-peft ", text)]
    assert len(commands) >= 8
    for words in commands:
        place = next(i for i, word in enumerate(words) if re.match(r"tools/|vision.peft$", word))
        if words[place].startswith("tools/"):
            assert (repository / words[place]).is_file()
        else:
            assert words[place + 1] in list_verbs()
        compose_config([word for word in words[place:] if re.match(r"[a-z][\w.]*=", word)])
