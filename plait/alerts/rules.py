"""Which alerts an operator wants, and where they go: the TOML file of ``plait server --alerts``.

Knows nothing of runs and of how an alert is told.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from plait.address import is_loopback
from plait.errors import ConfigError, did_you_mean
from plait.trust.secret_file import read_secret, read_small

MOST_RULES = 16


class Kind(StrEnum):
    """What may happen."""

    RUN_ENDED = "run-ended"
    QUORUM_MISSED = "quorum-missed"
    CLIENT_LOST = "client-lost"
    LOSS_RISEN = "loss-risen"


class Rule(BaseModel):
    """One ``[[alert]]``.

    Attributes:
        on: what it is about; everything by default.
        command: a program and its arguments, run without a shell; it reads the alert as JSON from standard input.
        webhook: gets the alert as JSON by POST; https, or http on this machine. Redirects are not followed.
        token_file: its content goes to the webhook as a bearer token; nobody else may read it.
        timeout_s: of one attempt.
        tries: attempts for one alert, with a pause between that doubles.
        after_minutes: how long a client, or in a tree a region, must be away to be lost.
        rise: how far above its lowest the held-out loss must be to have risen, as a fraction of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"))

    on: Annotated[tuple[Kind, ...], Field(min_length=1)] = tuple(Kind)
    command: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    webhook: Annotated[str, Field(max_length=2000)] = ""
    token_file: str = ""
    timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 10.0
    tries: Annotated[int, Field(ge=1, le=10)] = 3
    after_minutes: Annotated[float, Field(gt=0, le=60 * 24 * 30)] = 60.0
    rise: Annotated[float, Field(gt=0, le=100)] = 0.05

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.command) == bool(self.webhook):
            raise ValueError("expected command or webhook, one of them")
        if self.token_file and not self.webhook:
            raise ValueError("token-file is given without webhook, expected both")
        if self.webhook:
            parts = urlsplit(self.webhook)
            local = parts.scheme == "http" and is_loopback(parts.hostname or "")
            if not parts.hostname or not (parts.scheme == "https" or local):
                raise ValueError("webhook is not https://HOST/..., expected that (http only on this machine)")
            if parts.username is not None or parts.password is not None:
                raise ValueError("webhook holds a password, expected it in token-file")
        return self

    def token(self) -> str:
        """The webhook's token; empty for none.

        Raises:
            ConfigError: others can read the file, or it holds more than one printable line.
            MachineError: cannot be read.
        """
        if not self.token_file:
            return ""
        token = read_secret(Path(self.token_file)).decode(errors="replace").strip()
        if not token.isascii() or not token.isprintable() or not token:
            raise ConfigError(f"'{self.token_file}' is not a token, expected one line of ASCII")
        return token


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Read and check an alerts file; a token file beside it may be named relative to it.

    Raises:
        ConfigError: missing, malformed, an unknown key, or a rule that cannot work. One line.
        MachineError: cannot be read.
    """
    try:
        table = tomllib.loads(read_small(path).decode())
    except ValueError as error:
        raise ConfigError(f"'{path}' is not TOML, expected [[alert]] tables: {error}") from error
    entries = table.get("alert")
    if set(table) != {"alert"} or not isinstance(entries, list) or not 0 < len(entries) <= MOST_RULES:
        raise ConfigError(
            f"'{path}' has keys {ascii(sorted(table))[:120]}, expected 1 to {MOST_RULES} [[alert]] tables"
        )
    rules: list[Rule] = []
    for number, entry in enumerate(entries, 1):
        where = f"alert {number} of '{path}'"
        try:
            rule = Rule.model_validate(entry)
        except ValidationError as error:
            raise ConfigError(f"{where}: {_reason(error)}") from error
        if rule.token_file:
            rule = rule.model_copy(update={"token_file": str(path.absolute().parent / rule.token_file)})
        rule.token()
        rules.append(rule)
    return tuple(rules)


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        known = [key.replace("_", "-") for key in Rule.model_fields]
        return f"key {name[:60]!a} is unknown, expected {', '.join(known)}{did_you_mean(name, known)}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{name}: {reason}" if name else reason
