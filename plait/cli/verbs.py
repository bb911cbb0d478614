"""The verbs: where each one is, imported once it is called, and what it is for; and those that help begins with."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from plait.apps import bind_apps


@dataclass(frozen=True)
class Verb:
    """A verb, by the place of its function; one that `forwards` takes every option as an argument."""

    module: str
    function: str
    help: str
    forwards: bool = False

    def load(self) -> Callable[..., None]:
        """Its function."""
        if self.module.startswith(("server.", "client.")):
            bind_apps()
        return getattr(import_module(self.module), self.function)


VERBS: Mapping[str, Verb] = {
    "simulate": Verb("plait.cli.simulate", "simulate", "run a federation on this machine"),
    "resume": Verb("plait.cli.resume", "resume", "continue a run from where it stopped"),
    "report": Verb("plait.cli.report", "report", "show losses, bytes and savings of a run"),
    "estimate": Verb("plait.cli.planning", "estimate", "count the bytes of a run without running it"),
    "provision": Verb("plait.cli.provision", "provision", "make keys for a server and its clients"),
    "server": Verb("server.served_run", "server", "serve a federation"),
    "client": Verb("client.program", "client", "take part with data that stays on this machine"),
    "status": Verb("plait.cli.doctor", "server_status", "ask a server for its round, clients and bytes"),
    "verify": Verb("plait.cli.privacy", "verify", "check a run's record, signatures and adapter"),
    "doctor": Verb("plait.cli.doctor", "doctor", "show what this machine supports and lacks"),
    "init": Verb("plait.cli.planning", "init", "write a commented file of settings to begin with"),
    "chat": Verb("plait.cli.adapter", "chat", "talk to a run's model in the terminal"),
    "export": Verb("plait.cli.adapter", "export", "write the adapter for PEFT, vLLM, llama.cpp or Ollama"),
    "eval": Verb("plait.cli.adapter", "evaluate", "evaluate a base with and without an adapter"),
    "compare": Verb("plait.cli.report", "compare", "compare losses and bytes of several runs"),
    "privacy": Verb("plait.cli.privacy", "privacy", "show what runs have spent of their privacy"),
    "audit": Verb("plait.cli.audit", "audit", "attack a finished run's adapter"),
    "evidence": Verb("plait.cli.report", "evidence", "sign what a run did, for others to check"),
    "submit": Verb("server.standing_verbs", "submit", "give a standing server a run"),
    "runs": Verb("server.standing_verbs", "runs", "list a standing server's runs"),
    "cancel": Verb("server.standing_verbs", "cancel", "take a run out of a standing server's queue"),
    "fetch": Verb("server.standing_verbs", "fetch", "copy a finished run from a standing server"),
    "check-plugin": Verb("plait.cli.development", "check_plugin", "check a part of your own"),
    "bench": Verb("plait.cli.development", "bench", "measure plait; needs the source tree", forwards=True),
}

FORMS: Mapping[str, Verb] = {
    "doctor --base": Verb("plait.cli.doctor", "fits", "show how training on a base fits into memory"),
    "evidence --attest": Verb("client.sent", "attest", "state what left this client"),
    "report --live": Verb("plait.cli.serving", "watch", "show a run in the browser as it goes on"),
    "resume --withdraw": Verb("plait.cli.resume", "withdraw", "take a client out of a run"),
    "server --stay": Verb("server.standing", "server", "serve a queue of runs"),
}
"""What a verb does with an option that makes it another command."""

SERVE_AGAIN = Verb("server.served_run", "serve", "go on with a served run")

GROUPS: Mapping[str, Sequence[str]] = {
    "Simulate": ("simulate", "resume", "report", "compare", "estimate"),
    "Use": ("chat", "export"),
    "Deploy": ("provision", "server", "client", "status"),
    "Check": ("verify", "doctor"),
}
"""What ``plait --help`` begins with."""

_ABOUT = "plait fine-tunes a language model on data that stays where it is."
_USAGE = "Usage: plait VERB [OPTIONS]   (plait VERB --help shows more; plait --version)"
_ENDING = (
    "Exit codes: 0 done, 2 usage or configuration, 3 a peer's bytes or a data file,\n130 stopped, 1 anything else."
)
_COLUMNS = 79


def short_help() -> str:
    """The verbs of most users in groups, and the names of the others."""
    lines = [_ABOUT, "", _USAGE]
    for group, verbs in GROUPS.items():
        lines += ["", group, *(_line(verb, VERBS[verb].help) for verb in verbs)]
    others = [verb for verb in VERBS if not any(verb in group for group in GROUPS.values())]
    lines += ["", "More (plait help --all)", *_wrapped(", ".join([*others, *FORMS]))]
    return "\n".join([*lines, "", _ENDING, ""])


def whole_help() -> str:
    """Every verb with what it is for."""
    lines = [_ABOUT, "", _USAGE, "", *(_line(name, verb.help, 17) for name, verb in {**VERBS, **FORMS}.items())]
    return "\n".join([*lines, "", _ENDING, ""])


def _line(verb: str, text: str, width: int = 13) -> str:
    return f"  {verb:<{width}} {text}"


def _wrapped(words: str) -> list[str]:
    return textwrap.wrap(words, _COLUMNS, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
