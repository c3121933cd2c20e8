"""Say what an unknown key may have meant: the same key in another section, another word for it, a near spelling."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vision_peft.config.commands import through_the_door
from vision_peft.config.find_configs import find_configs
from vision_peft.config.synonyms import ANSWERS, SYNONYMS
from vision_peft.suggest import find_closest

NEAR = 0.65  # similarity from which a spelling is suggested


def describe_unknown(
    key: str, value: Any, known: Sequence[str], prefix: str, others: Mapping[str, Sequence[str]]
) -> str:
    """Describe a key that a section does not have, with the full name of the key that may have been meant.

    What other tools have as a key and is none here, such as `num_classes`, is answered with what does it here; a key of
    methods that were not chosen with their names.

    Args:
        key: as typed, without its section.
        value: what it was given; a mapping where `key` stands for a section that is not there (`optim.lr=1e-3`).
        known: keys of the section.
        prefix: of the section: "recipe.", or "" for the keys above the sections.
        others: prefix of each further section -> its keys.
    """
    sections = {prefix: known} | {name: keys for name, keys in others.items() if name != prefix}
    if found := suggest_keys(key, value, sections):
        return f"unknown key {prefix}{key}: did you mean {' or '.join(found)}?"
    if answer := _answer(key):
        return f"unknown key {prefix}{key}: {answer}"
    listed = f"{prefix.rstrip('.') or 'config'} has {', '.join(known)}"
    if methods := _find_methods(key):
        word = _spell(key) if _find_methods(key, {}) else SYNONYMS[_spell(key)]
        elsewhere = f"the chosen method has no {word}; those that have it are {', '.join(methods)}"
        return f"unknown key {prefix}{key}: {elsewhere}{f'; {listed}' if prefix == 'method.' else ''}"
    return f"unknown key {prefix}{key}: {listed}"


def suggest_keys(key: str, value: Any, sections: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the full names of the keys that may have been meant; the first section is the one it was typed in.

    A key of that very name comes first, then one that other tools call so, then those that are spelt nearly so. Of a
    section that is not there (`optim.lr=1e-3`) its first key is looked for.
    """
    own, *_ = sections
    if own == "" and isinstance(value, Mapping) and not find_closest(key, sections[own], 1, NEAR):
        ((inner, deeper), *_) = [*value.items(), (key, None)]
        return suggest_keys(str(inner), deeper, sections)
    spelt = _spell(key)
    for word in dict.fromkeys([key, spelt, SYNONYMS.get(spelt, key)]):
        if found := [prefix + word for prefix, keys in sections.items() if word in keys]:
            return found
    if spelt in ANSWERS or _find_methods(key):
        return []
    near = [(prefix, close[0]) for prefix, keys in sections.items() if (close := find_closest(key, keys, 1, NEAR))]
    best = find_closest(key, [name for _, name in near], 1, NEAR)
    return [prefix + name for prefix, name in near if [name] == best][:1]


def describe_dashed(
    arguments: Sequence[str], options: Sequence[str], sections: Mapping[str, Sequence[str]]
) -> list[str]:
    """Describe the keys that were typed as options are, `--method lora`, and how to write them.

    Args:
        arguments: of a verb that takes overrides.
        options: those that the verb has; abbreviations of them are none of ours.
        sections: prefix of each section -> its keys.
    """
    problems = []
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if not flag.startswith("--") or any(option.startswith(flag) for option in options):
            continue
        word = flag[2:]
        if answer := _answer(word):
            problems.append(f"{argument}: {answer}")
            continue
        if not equals and place + 1 < len(arguments) and _is_bare(arguments[place + 1]):
            value = arguments[place + 1]
        found = [word] if "." in word else suggest_keys(word, None, sections)
        if found:
            typed = argument if equals or not value else f"{argument} {value}"
            problems.append(f"{typed}: keys have no dashes, write {found[0]}={value or 'VALUE'}")
    return problems


def describe_valueless(words: Sequence[str], names: Mapping[str, Sequence[str]]) -> list[str]:
    """Describe the words of a command line that have no `=`, `method lora`, and how to write them.

    Args:
        words: overrides; `~key` deletes and needs no value.
        names: group -> the names that it has.
    """
    problems, waiting = [], list(words)
    while waiting:
        word, *waiting = waiting
        if "=" in word or word.startswith("~"):
            continue
        group = next((group for group, known in names.items() if word in known), None)
        if waiting and _is_bare(waiting[0]):
            value, *waiting = waiting
            problems.append(f"{word} {value} has no = (write key=value): write {word}={value}")
        elif group is not None:
            problems.append(f"{word} has no = (write key=value): write {group}={word}")
        else:
            problems.append(f"{word} has no value (write key=value): write {word}=VALUE")
    return problems


def _spell(word: str) -> str:
    """Write a word as keys are written."""
    return word.lower().replace("-", "_")


def _find_methods(key: str, synonyms: Mapping[str, str] = SYNONYMS) -> list[str]:
    """Name the methods that have a key, or what other tools call so."""
    words = "|".join(map(re.escape, {_spell(key), synonyms.get(_spell(key), key)}))
    files = sorted(find_configs().joinpath("method").glob("*.yaml"))
    return [file.stem for file in files if re.search(rf"^({words}):", file.read_text(encoding="utf-8"), re.MULTILINE)]


def _answer(key: str) -> str:
    """Say what does here what a key of other tools does, if that is no key."""
    return through_the_door(ANSWERS.get(_spell(key), ""))


def _is_bare(word: str) -> bool:
    """Tell whether a word can only be the value of the one before it."""
    return bool(word) and "=" not in word and not word.startswith(("-", "~"))
