"""
The command line before the parser sees it.

The parser wants options of the whole tool in front of the command, takes no value for a
boolean, and takes `-n=5` for the value `=5`. Users of the first Sandglass were used to better,
so `normalised` rewrites, by what the commands declare and nothing else:

1. `--ack=false` becomes `--no-ack`, or nothing where false is the default; `-f=true`: `-f`.
2. `-n=5` becomes `-n 5`.
3. `--consumer_group` is `--consumer-group`, and the other way round.
4. Options of the whole tool may stand anywhere: they are moved to the front.

What follows `--` is left alone, and so is what is unknown: the parser finds the words for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sandglass.errors import InvalidError
from sandglass.settings import parse_bool


@dataclass(frozen=True, slots=True)
class Options:
    """
    The options of a tool, all commands together, each by every spelling it has.

    `booleans` gives the spelling for true and for false (empty: leave it out); `valued` are
    those with a value; `first` those of the whole tool; `spellings` finds a long one by its
    name with hyphens only.
    """

    booleans: dict[str, tuple[str, str]]
    valued: frozenset[str]
    first: frozenset[str]
    spellings: dict[str, str]


def options_of(root: Any) -> Options:
    """The options that a command, and all below it, declare."""
    booleans: dict[str, tuple[str, str]] = {}
    valued: set[str] = set()
    first: set[str] = set()
    for command in commands_of(root):
        for option in command.params:
            if option.param_type_name != "option":
                continue
            spelled = [*option.opts, *option.secondary_opts]
            if command is root:
                first.update(spelled)
            if option.is_flag:
                on, off = option.opts[0], next(iter(option.secondary_opts), "")
                booleans |= dict.fromkeys(option.opts, (on, off))
                booleans |= dict.fromkeys(option.secondary_opts, (off, on))
            else:
                valued.update(spelled)
    assert not valued & booleans.keys(), "one spelling, a boolean here and not there"
    long = [each for each in (*booleans, *valued) if each.startswith("--")]
    spellings = {each.replace("_", "-"): each for each in long}
    return Options(booleans, frozenset(valued), frozenset(first), spellings)


def commands_of(root: Any) -> Iterator[Any]:
    """A command and all below it."""
    yield root
    for command in getattr(root, "commands", {}).values():
        yield from commands_of(command)


def normalised(arguments: Sequence[str], options: Options) -> list[str]:
    """
    The same command line as the parser wants it.

    Raises:
        InvalidError: a boolean was given something else than true or false, or an option of the
            whole tool is the last word, without its value.
    """
    front: list[str] = []
    rest: list[str] = []
    waiting = list(reversed(arguments))
    while waiting:
        token = waiting.pop()
        if token == "--":
            rest += [token, *reversed(waiting)]
            break
        name, value = _parted(token, options)
        place = front if name in options.first else rest
        if name in options.booleans:
            place += _boolean(name, value, options.booleans[name])
        elif name in options.valued and (value is not None or waiting):
            value = waiting.pop() if value is None else value
            place += [f"{name}={value}"] if name.startswith("--") else [name, value]
        elif name in options.first:
            # In front it would take the command for its value.
            raise InvalidError(f"Option '{name}' requires an argument.", field=name)
        else:
            rest.append(token)
    return front + rest


def _parted(token: str, options: Options) -> tuple[str, str | None]:
    """An option's name as declared and the value joined to it, if any; else an empty name."""
    if token.startswith("--"):
        spelled, equals, value = token.partition("=")
        name = options.spellings.get(spelled.replace("_", "-"), "")
        return name, value if equals else None
    name, joined = token[:2], token[2:]
    if not joined:
        return (name if name in options.booleans or name in options.valued else ""), None
    if joined.startswith("=") and (name in options.booleans or name in options.valued):
        return name, joined[1:]
    return (name, joined) if name in options.valued else ("", None)


def _boolean(name: str, value: str | None, spellings: tuple[str, str]) -> list[str]:
    is_on = True if value is None else parse_bool(value)
    if is_on is None:
        raise InvalidError(f"{name} is {value!r}; it must be true or false", field=name)
    return [each for each in [spellings[0 if is_on else 1]] if each]
