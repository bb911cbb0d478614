"""The core's verbs by name: where each one is, and what it is for in a few words; and the ten that help begins with.

A verb is imported once it is called, so that ``plait --help`` and a short verb answer at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from plait.known_features import features


@dataclass(frozen=True)
class Verb:
    """A verb.

    Attributes:
        place: of its function, ``module:attribute``.
        forwards: whether it takes every option, ``--help`` included, as an argument.
    """

    place: str
    help: str
    forwards: bool = False


VERBS: Mapping[str, Verb] = {
    "simulate": Verb("plait.cli.simulate:simulate", "run a federation on this machine"),
    "resume": Verb("plait.cli.resume:resume", "continue a run from where it stopped"),
    "report": Verb("plait.cli.report:report", "show losses, bytes and savings of a run"),
    "estimate": Verb("plait.cli.estimate:estimate", "count the bytes of a run without running it"),
    "provision": Verb("plait.cli.provision:provision", "make keys for a server and its clients"),
    "server": Verb("server.verb:server", "serve a federation"),
    "client": Verb("client.verb:client", "take part with data that stays on this machine"),
    "status": Verb("plait.cli.status:status", "ask a server for its round, clients and bytes"),
    "verify": Verb("plait.cli.verify:verify", "check a run's record, signatures and adapter"),
    "doctor": Verb("plait.cli.doctor:doctor", "show what this machine supports and lacks"),
    "check-plugin": Verb("plait.cli.check_plugin:check_plugin", "check a part of your own"),
    "eval": Verb("plait.cli.evaluate:evaluate", "evaluate a base with and without an adapter"),
    "bench": Verb("plait.cli.bench:bench", "measure plait; needs the source tree", forwards=True),
}

GROUPS: Mapping[str, Sequence[str]] = {
    "Simulate": ("simulate", "resume", "report", "estimate"),
    "Deploy": ("provision", "server", "client", "status"),
    "Check": ("verify", "doctor"),
}
"""What ``plait --help`` begins with."""

_ABOUT = "plait fine-tunes a language model on data that stays where it is."
_USAGE = "Usage: plait VERB [OPTIONS]   (plait VERB --help tells more; plait --version)"
_ENDING = (
    "Exit codes: 0 done, 2 usage or configuration, 3 a peer's bytes or a data file,\n130 stopped, 1 anything else."
)
_COLUMNS = 79


def short_help() -> str:
    """Ten verbs in three groups, and the names of the others."""
    lines = [_ABOUT, "", _USAGE]
    for group, verbs in GROUPS.items():
        lines += ["", group, *(_line(verb, VERBS[verb].help) for verb in verbs)]
    others = [verb for verb in VERBS if not any(verb in group for group in GROUPS.values())]
    lines += ["", "More (plait help --all)", *_wrapped(others)]
    lines += [line for name, verbs in _of_features() for line in _wrapped(verbs, f"{name}: ")]
    return "\n".join([*lines, "", _ENDING, ""])


def whole_help() -> str:
    """Every verb with what it is for: the core's, then each feature's."""
    lines = [_ABOUT, "", _USAGE, "", *(_line(name, verb.help) for name, verb in VERBS.items())]
    for feature in features():
        if feature.verbs:
            lines += ["", *_wrapped([f"{feature.name}: {feature.help}"], indent=""), *_wrapped(list(feature.verbs))]
    return "\n".join([*lines, "", _ENDING, ""])


def _of_features() -> Iterator[tuple[str, list[str]]]:
    return ((feature.name, list(feature.verbs)) for feature in features() if feature.verbs)


def _line(verb: str, text: str) -> str:
    return f"  {verb:<13} {text}"


def _wrapped(words: Sequence[str], first: str = "", *, indent: str = "  ") -> list[str]:
    import textwrap

    return textwrap.wrap(first + ", ".join(words), _COLUMNS, initial_indent=indent, subsequent_indent=f"{indent}  ")
