"""Bounds on YAML from someone else, checked event by event before anything is made of it."""

import yaml

MAX_BYTES = 2**20
MAX_DEPTH = 20
MAX_EVENTS = 100_000  # a weight for each of 22,000 classes takes a fifth
MAX_TEXT = 20_000  # letters of a key or value; YAML reads 1:1:1:... as one number, which takes time by its square

# libyaml's where it is built in, which reads a megabyte of brackets in milliseconds
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(text: str, references: bool = False) -> None:
    """Accept YAML within the bounds above.

    Args:
        text: of a file.
        references: accept parts that stand for others (`*name`), which count as what they stand for.

    Raises:
        ValueError: it is no YAML, or longer, deeper or more than any true config; says what.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text):,} letters, wanted at most {MAX_BYTES:,}")
    sizes: dict[str, int] = {}  # events that a name stands for
    open_: list[tuple[str | None, int]] = []  # names of the collections around, and the events before each
    count = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            count += 1
            if isinstance(event, yaml.AliasEvent):
                if not references:
                    raise ValueError("it refers to parts of itself (*)")
                if event.anchor not in sizes:
                    raise ValueError(f"*{event.anchor} refers to itself or to nothing")
                count += sizes[event.anchor]
            elif isinstance(event, yaml.ScalarEvent):
                if len(event.value) > MAX_TEXT:
                    raise ValueError(f"it holds a text of {len(event.value):,} letters, wanted at most {MAX_TEXT:,}")
                if event.anchor is not None:
                    sizes[event.anchor] = 1
            elif isinstance(event, yaml.CollectionStartEvent):
                open_.append((event.anchor, count))
                if len(open_) > MAX_DEPTH:
                    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
            elif isinstance(event, yaml.CollectionEndEvent):
                name, before = open_.pop()
                if name is not None:
                    sizes[name] = count - before
            if count > MAX_EVENTS:
                raise ValueError(f"it holds more than {MAX_EVENTS:,} keys and values")
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
