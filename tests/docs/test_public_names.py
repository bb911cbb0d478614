"""The names that users may rely on are those of a committed list, so that a change of one is a decision.

    python -m tests.docs.test_public_names > tests/docs/public_names.txt
Then it takes a line in CHANGELOG.md.
"""

import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import plait
from plait.cli.verbs import VERBS
from plait.config import known_keys
from plait.ledger import events
from plait.policy import Policy


def public() -> Iterator[str]:
    """Python's names with their arguments, verbs, settings, keys of policies, and events with their fields."""
    for name in plait.__all__:
        found = getattr(plait, name)
        yield called(f"plait.{name}", found)
        for inner in dir(found) if inspect.isclass(found) and not issubclass(found, events.Event) else ():
            if not inner.startswith("_") and not hasattr(Exception, inner):
                yield called(f"plait.{name}.{inner}", inspect.getattr_static(found, inner))
    yield from (f"plait {verb}" for verb in VERBS)
    yield from (f"--{key}" for key in known_keys())
    yield from (f"policy: {name.replace('_', '-')}" for name in Policy.model_fields)
    kinds = {**events.KINDS, **{kind: events._of_part(kind) for kind in events._HOMES}}
    for kind, model in sorted(kinds.items()):
        yield f"event {kind}: {', '.join(sorted(model.model_fields))}"


def called(name: str, found: object) -> str:
    """A name, with the names of its arguments if it can be called."""
    inner = getattr(found, "__func__", found)
    # Errors, choices and protocols are called by nobody.
    is_named = inspect.isclass(inner) and (
        issubclass(inner, (Exception, Enum)) or getattr(inner, "_is_protocol", False)
    )
    if not callable(inner) or is_named:
        return name
    return f"{name}({', '.join(each for each in inspect.signature(inner).parameters if each[0] != '_')})"


def test_public_names_are_those_of_the_list():
    listed = Path(__file__).with_name("public_names.txt").read_text().splitlines()
    assert [*public()] == listed, "see the head of this file"


if __name__ == "__main__":
    print("\n".join(public()))
