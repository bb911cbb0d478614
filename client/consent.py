"""What a run asks of this machine, in plain words, and whether its operator agreed: asked once and remembered."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from client.task import shown
from plait.aggregation import RULES
from plait.aggregation.own_rule import STATED
from plait.config import RunConfig, Scalar
from plait.errors import PolicyError
from plait.policy import Policy, fewest
from plait.report.wording import bytes_text
from plait.secagg.rounds import masked_of
from plait.secagg.sums import bits_for
from plait.settings.choice import parse_choice
from plait.settle import settle
from plait.system.files import ensure_private_directory, read_if_there, write_atomically
from plait.wire.codecs import codec_for

_MOST_BYTES = 256


def asker(question: str) -> Callable[[], bool] | None:
    """Asks a yes-or-no `question`; None without a terminal."""
    try:
        attended = sys.stdin.isatty() and sys.stderr.isatty()
    except (AttributeError, ValueError):
        return None  # closed, or none
    if not attended:
        return None
    return lambda: _ask(question, sys.stdin.fileno())


def _ask(question: str, descriptor: int) -> bool:
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    answer = b""
    while b"\n" not in answer and len(answer) < _MOST_BYTES and (data := os.read(descriptor, _MOST_BYTES)):
        answer += data
    return answer.strip().lower() in (b"y", b"yes")


@dataclass(frozen=True)
class Proposal:
    """A run, as described to the operator.

    Attributes:
        parameters: of the adapter; None if the base is not here yet.
        spent: what earlier runs have cost the data in this federation.
    """

    server: str
    config: RunConfig
    base_fingerprint: bytes
    data: str
    policy: Policy
    parameters: int | None
    spent: float = 0.0

    @property
    def lines(self) -> tuple[str, ...]:
        """The run in plain words."""
        config = self.config
        examples = config.batch_size * config.gradient_accumulation_steps
        examples *= config.dp_group_records if config.private_group else 1
        objective = config.learned
        tokens = config.most_steps * examples * objective.sequences * config.seq_len
        each = objective.examples.format(f"{examples:,}")
        steps = f"{config.local_steps:,}" if config.most_steps == config.local_steps else f"1 to {config.most_steps:,}"
        learned = "" if objective.is_plain else f", objective {shown(objective.text)}"
        fingerprint = f" ({self.base_fingerprint.hex()[:16]})" if self.base_fingerprint else ""
        trainer = f", trained by {shown(config.trainer)}" if config.trainer else ""
        beyond = self.policy.beyond(config)
        limit = f"at most {tokens:,} tokens"
        if config.epochs:
            passes, most = config.epochs / config.rounds, self.policy.max_tokens
            steps, limit = f"{passes:.3g} of a pass in", f"at most {most:,} tokens (max-tokens)"
        return (
            (
                f"{self.server} asks for {config.rounds:,} rounds with rule {shown(_rule(config.rule))}, "
                f"{config.cohort_size:,} of {config.clients:,} clients in each"
            ),
            (
                f"base {shown(config.base)}{fingerprint}, method {shown(config.method)}, rank {config.rank}, "
                f"on {shown(config.target_modules)}{trainer}"
            ),
            (
                f"a round trains {steps} steps of {each} x {config.seq_len:,} tokens{learned}: "
                f"{limit} of {shown(self.data)}"
            ),
            *([f"that is more than an unattended client accepts: {', '.join(beyond)}"] if beyond else []),
            self._sent,
            *self._also_sent,
            *self._privacy,
            *self._liars,
            "stays here: the data, and your personalized adapter if the run makes one",
            *self._server_sees,
        )

    @property
    def _sent(self) -> str:
        bits = _masked_bits(self.config, self.parameters) if self._is_masked else codec_for(self.config.bits).bits
        how = f"{bits:g} {'bit' if bits == 1 else 'bits'} per parameter"
        if self.parameters is None:
            return f"sent: updates of {how}, at most {self.policy.max_upload_mb:g} MB each (max-upload-mb)"
        update = round(self.parameters * bits / 8)
        total = bytes_text(update * self.config.rounds)
        return f"sent: about {bytes_text(update)} per round ({how}), {total} in total"

    @property
    def _also_sent(self) -> tuple[str, ...]:
        losses, besides = self.config.learned.losses, "this machine's device and memory"
        if self.config.eval_metrics:
            losses += f", sums of {shown(self.config.eval_metrics)} over held-out examples"
            losses += ", with their scores" if "auroc" in self.config.eval_metrics else ""
        if self.config.dp == "record" or (self.config.dp == "client" and self._is_masked):  # clients add noise to all
            return (f"also sent: {besides}",)
        if self._is_masked:
            return f"also sent under masks: {losses}, how long its update is", f"also sent: {besides}"
        labels = ", how often each label occurs" if self.config.labels else ""
        return (f"also sent: {losses}, counts of examples and tokens{labels}, {besides}",)

    @property
    def _privacy(self) -> tuple[str, ...]:
        """What is promised, by whom, and what earlier runs have spent."""
        config, spent, most = self.config, self.spent, self.policy.most_epsilon
        if config.dp == "off" and not spent:
            return ()
        allowed = f"at most {most:g} over all runs (max-total-epsilon)" if most else "max-total-epsilon sets no limit"
        earlier = f"earlier runs on these data in this federation have spent epsilon {spent:.4g}: {allowed}"
        if config.dp == "off":
            return (earlier,)
        budget = f"epsilon {config.dp_epsilon:g} at delta {config.dp_delta:g}"
        if config.dp == "record":
            # The column is the server's word.
            unit = f"{shown(config.private_group)}, with all its records," if config.private_group else "sequence"
            promised = (
                f"this client adds noise to its own training, so that no single {unit} shows in what it sends: "
                f"{budget}, kept by this client's own account"
            )
        elif self._is_masked:
            promised = (
                f"this client adds its share of the noise under its masks, so that no sum shows what its data change, "
                f"not even to the server: {budget}, if the others add theirs"
            )
        else:
            promised = (
                f"the server promises client-level differential privacy towards everyone but itself: {budget}; this "
                "client cannot check that it adds the noise"
            )
        return promised, earlier

    @property
    def _liars(self) -> tuple[str, ...]:
        """What other members can do to the result; nothing where the rule withstands some, or is the server's own."""
        name, _ = parse_choice(self.config.rule)
        rule = RULES.get(name)
        if rule is None or rule.least_clients > 1:
            return ()
        which = " and masks would hide which," if self._is_masked else ""
        spoils = f"one member that lies can spoil the result,{which} because rule {shown(name)} is a mean"
        return (f"{spoils}: where members are not trusted, ask for a run with --rule median, which is not masked",)

    @property
    def _server_sees(self) -> tuple[str, ...]:
        config = self.config
        if not self._is_masked:
            if config.dp == "record":
                return ("the run is not masked: the server sees this client's own updates, with their noise",)
            return (
                "the run is not masked: the server sees this client's own updates and losses",
                "an update can reveal parts of its training text: join only a server that you trust with that",
            )
        sums = (
            f"the run is masked (secure aggregation): the server learns sums over {fewest(config)} or more clients, "
            f"and no single client's updates or losses"
        )
        if config.dp == "client":
            return (sums,)
        unhidden = "masks add no noise: they do not hide what the sum, and so the adapter, reveals of a text"
        if config.cohort_size == config.clients:
            return sums, unhidden
        many = "each round has other clients, so sums of many rounds together show how a single client's data change it"
        return sums, unhidden, many

    @property
    def _is_masked(self) -> bool:
        return self.config.secure_aggregation


def _rule(text: str) -> str:
    """A rule's name and options; of one that only the server has, the name that it states."""
    name, options = parse_choice(text)
    return f"{options.get('name', name)}, which only the server has" if name == STATED else text


def _masked_bits(config: RunConfig, parameters: int | None) -> float:
    privacy, clients = masked_of(settle(config).config).privacy, config.cohort_size
    if privacy is None or parameters is None:
        return bits_for(clients)
    return privacy.shares(parameters).bits(clients, parameters)


_MOST_KEPT = 256
_WEEK_S = 7 * 24 * 3600.0


def consent_digest(config: Mapping[str, Scalar], base_fingerprint: bytes, authority: bytes) -> str:
    """Digest of the content of the agreement, in hexadecimal; `authority` is empty without TLS."""
    text = json.dumps(dict(config), sort_keys=True).encode()
    parts = (text, base_fingerprint, authority)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()


@dataclass(frozen=True)
class _Consent:
    """How and when a configuration was agreed to, and when each run of it."""

    how: str
    time: float
    runs: Mapping[str, float]


_CONSENTS = TypeAdapter(dict[str, _Consent])


@dataclass(frozen=True)
class Consents:
    """The configurations that an operator has agreed to, in a file that is private to its owner."""

    path: Path

    @classmethod
    def of(cls, state: Path, name: str) -> Self:
        """Those of a node."""
        return cls(state / f"{name}.consents.json")

    def has(self, digest: str) -> bool:
        """Whether this configuration is among them."""
        return digest in self._read()

    def runs(self, digest: str) -> frozenset[str]:
        """The agreed runs of this configuration."""
        entry = self._read().get(digest)
        return frozenset(entry.runs if entry else ())

    def was_asked(self, digest: str) -> bool:
        """Whether the operator was shown this configuration and agreed to it."""
        entry = self._read().get(digest)
        return entry is not None and entry.how == "asked"

    def begun_since(self, since_s: float) -> int:
        """The number of runs, of all configurations, that were agreed to since then (in seconds since 1970)."""
        return sum(begun >= since_s for entry in self._read().values() for begun in entry.runs.values())

    def add(self, digest: str, run: str, how: str) -> None:
        """Store this configuration and one run of it; `how` is ``asked``, ``yes`` or ``policy``."""
        kept, now = self._read(), round(time.time())
        entry = kept.pop(digest, None) or _Consent(how, now, {})
        kept[digest] = replace(entry, runs={**entry.runs, run: now})
        newest = dict(list(kept.items())[-_MOST_KEPT:])
        ensure_private_directory(self.path.parent)
        write_atomically(self.path, _CONSENTS.dump_json(newest, indent=1))

    def _read(self) -> dict[str, _Consent]:
        data = read_if_there(self.path)
        try:
            return {} if data is None else _CONSENTS.validate_json(data)
        except ValidationError as error:
            # As none it would let a server begin as many runs again.
            raise PolicyError(
                f"'{self.path}' is damaged, so it is unknown which runs were agreed to: restore it, or remove it to be "
                "asked about each again"
            ) from error


def agree(
    digest: str,
    run: str,
    consents: Consents,
    *,
    most_runs: int,
    most_a_week: int = 0,
    each_run: bool = False,
    yes: bool,
    by_policy: bool,
    ask: Callable[[], bool] | None,
) -> str:
    """Continue only with the operator's consent; gives its form: ``before``, ``yes``, ``asked`` or ``policy``.

    Args:
        most_runs: limit on runs of one configuration; each reveals more.
        most_a_week: limit on runs of any configuration within seven days; 0 for none.
        each_run: whether each run of a configuration needs its own consent, as with masks.
    """
    runs = consents.runs(digest)
    if run in runs:
        return "before"
    if len(runs) >= most_runs:
        raise PolicyError(
            f"the server began {len(runs) + 1} runs of one configuration, but max-rounds of this client's policy "
            f"allows the rounds of {most_runs}; to take part, raise it in the file given with --policy"
        )
    if most_a_week and consents.begun_since(time.time() - _WEEK_S) >= most_a_week:
        raise PolicyError(
            f"this client began {most_a_week} runs within seven days, but max-runs-per-week of its policy allows "
            f"{most_a_week}; to take part, raise it in the file given with --policy"
        )
    how = "before" if consents.has(digest) and not each_run else _consent(yes=yes, by_policy=by_policy, ask=ask)
    consents.add(digest, run, how)
    return how


def _consent(*, yes: bool, by_policy: bool, ask: Callable[[], bool] | None) -> str:
    if yes:
        return "yes"
    if ask is not None:
        if not ask():
            raise PolicyError("the operator of this client did not consent to the run")
        return "asked"
    if by_policy:
        return "policy"
    raise PolicyError(
        "this client's policy asks for consent, and there is no terminal to ask on; run `plait client … --yes`, or "
        "answer once on a terminal"
    )
