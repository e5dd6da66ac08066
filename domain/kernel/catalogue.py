"""The event catalogue: every topic, class version and field of the log, in a committed file that only gains lines."""

import importlib
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import msgspec

from .aggregate import Aggregate, event_classes
from .mapper import codec_of
from .time import Instant

CATALOGUE = Path(__file__).resolve().parents[1] / "event_catalogue.txt"
COMMAND = "python -m domain.kernel.catalogue"


def lines_of_code() -> list[str]:
    """One line per event class of the village: `topic version field:type ...`, sorted."""
    return sorted(_line(kind) for kind in _event_classes())


def event_topics() -> list[str]:
    """Every stored topic of the village, sorted."""
    return sorted(kind.TOPIC for kind in _event_classes())


def closing_topics() -> list[str]:
    """The stored topics of the facts that close their streams, sorted."""
    return sorted(kind.TOPIC for kind in _event_classes() if kind.closes)


def committed_lines(path: Path = CATALOGUE) -> list[str]:
    """The lines of the committed file."""
    return path.read_text().splitlines() if path.exists() else []


def problems(code: Iterable[str], committed: Iterable[str]) -> list[str]:
    """What would make stored history unreadable, or is not committed yet; empty when all is well."""
    code, committed = list(code), list(committed)
    newest = {_topic(line): _version(line) for line in code}
    found = [f"committed twice: {line}" for line in sorted({line for line in committed if committed.count(line) > 1})]
    for line in committed:
        topic, version = _topic(line), _version(line)
        if topic not in newest:
            found.append(f"{topic} is in the log for ever, and the code no longer has it")
        elif version > newest[topic]:
            found.append(f"{topic} is committed at version {version}, the code is at {newest[topic]}")
        elif version == newest[topic] and line not in code:
            found.append(f"{topic} changed: raise its class_version and upcast. Committed: {line}")
    for line in code:
        if line not in committed:
            found.append(f"not committed, add it by `{COMMAND}`: {line}")
    known = {(_topic(line), _version(line)) for line in committed}
    for topic, version in newest.items():
        gone = [old for old in range(1, version) if (topic, old) not in known]
        found += [f"{topic} version {old} has left the catalogue" for old in gone]
    return found


def append_missing(path: Path = CATALOGUE) -> list[str]:
    """Append the lines that the file lacks, and answer them; lines that are there stay as they are."""
    known = set(committed_lines(path))
    missing = [line for line in lines_of_code() if line not in known]
    if missing:
        with path.open("a") as file:
            file.writelines(f"{line}\n" for line in missing)
    return missing


def _event_classes() -> list[Any]:
    # By name, for the kernel may import no context.
    importlib.import_module("domain.topics")
    return [kind for aggregate in _aggregates(Aggregate) for kind in event_classes(aggregate)]


def _aggregates(base: type[Aggregate]) -> Iterator[type[Aggregate]]:
    for kind in base.__subclasses__():
        # Tests make aggregates of their own, and the kernel's are bases: neither is in the village's log.
        if kind.__module__.startswith("domain.") and not kind.__module__.startswith("domain.kernel."):
            yield kind
        yield from _aggregates(kind)


def _line(kind: Any) -> str:
    codec = codec_of(kind.TOPIC)
    return " ".join(
        [codec.topic, str(codec.version), *(f"{name}:{type_name(hint)}" for name, hint in codec.fields.items())]
    )


def type_name(hint: Any) -> str:
    """A field's type as the committed tables spell it, with the fields of a value inside."""
    if hint is Instant:
        return "Instant"
    if hint is NoneType:
        return "None"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return "|".join(map(type_name, arguments))
    if origin is typing.Literal:
        return "|".join(f"'{item}'" for item in arguments)
    if origin is not None:
        return f"{origin.__name__}[{','.join(map(type_name, arguments))}]"
    if hint.__module__ == "builtins" or not _has_fields(hint):
        return str(hint.__name__)
    inner = typing.get_type_hints(hint, include_extras=True)
    return str(hint.__name__) + "{" + ",".join(f"{name}:{type_name(inner[name])}" for name in _field_names(hint)) + "}"


def _has_fields(hint: Any) -> bool:
    return issubclass(hint, msgspec.Struct) or hasattr(hint, "__dataclass_fields__")


def _field_names(hint: Any) -> tuple[str, ...]:
    return tuple(hint.__struct_fields__ if issubclass(hint, msgspec.Struct) else hint.__dataclass_fields__)


def _topic(line: str) -> str:
    return line.split(" ", 1)[0]


def _version(line: str) -> int:
    return int(line.split(" ", 2)[1])


if __name__ == "__main__":
    for added in append_missing():
        print(added)
