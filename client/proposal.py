"""A run's requests to this machine, in plain words for its operator, before anything is downloaded or trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from client.wording import shown, size
from plait.aggregation.stated_rule import STATED
from plait.choice import parse_choice
from plait.config import RunConfig
from plait.known_features import features
from plait.places import at
from plait.policy import Policy, Proposed, Words
from plait.wire.codecs import codec_for


@dataclass(frozen=True)
class Proposal:
    """A run, as described to the operator.

    Attributes:
        base_fingerprint: of the base; empty if any is accepted.
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
        objective = config.learned
        tokens = config.most_steps * examples * objective.sequences * config.seq_len
        each = objective.examples.format(f"{examples:,}")
        learned = "" if objective.is_plain else f", objective {shown(objective.text)}"
        fingerprint = f" ({self.base_fingerprint.hex()[:16]})" if self.base_fingerprint else ""
        labels = ", how often each label occurs" if config.labels else ""
        trainer = f", trained by {shown(config.trainer)}" if config.trainer else ""
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
                f"a round trains {_steps(config)} steps of {each} x {config.seq_len:,} tokens{learned}: "
                f"at most {tokens:,} tokens of {shown(self.data)}"
            ),
            *self._large,
            self._sent,
            *self._also_sent(objective.losses, f"counts of examples and tokens{labels}"),
            *(line for words in self._words for line in words.promised),
            *self._who_sees,
        )

    @property
    def _large(self) -> tuple[str, ...]:
        beyond = self.policy.beyond(self.config)
        return (f"that is more than an unattended client accepts: {', '.join(beyond)}",) if beyond else ()

    def _also_sent(self, losses: str, counts: str) -> tuple[str, ...]:
        besides = "this machine's device and memory"
        if any(words.is_noised for words in self._words):
            return (f"also sent: {besides}",)
        if not any(words.under_masks for words in self._words):
            return (f"also sent: {losses}, {counts}, {besides}",)
        return f"also sent under masks: {losses}, how long its update is", f"also sent: {besides}"

    @property
    def _who_sees(self) -> tuple[str, ...]:
        """What stays here, and who learns what of an update."""
        return "stays here: the data, and your personalized adapter if the run makes one", *self._server_sees

    @cached_property
    def _words(self) -> tuple[Words, ...]:
        """What features say of the run."""
        run = Proposed(
            config=self.config,
            policy=self.policy,
            parameters=self.parameters,
            spent=self.spent,
        )
        return tuple(at(feature.proposes)(run) for feature in features() if feature.proposes)

    @property
    def _server_sees(self) -> tuple[str, ...]:
        masks = "the run is not masked: the server sees this client's own updates and losses"
        own = masks, "an update can reveal parts of its training text: join only a server that you trust with that"
        # The last feature's words, whose part is nearest to the wire.
        return next((words.seen for words in reversed(self._words) if words.seen), own)

    @property
    def _sent(self) -> str:
        bits = next((each.bits for each in self._words if each.bits), codec_for(self.config.wire).bits)
        how = f"{bits:g} {'bit' if bits == 1 else 'bits'} per parameter"
        if self.parameters is None:
            return f"sent: updates of {how}, at most {self.policy.max_upload_mb:g} MB each (max-upload-mb)"
        update = round(self.parameters * bits / 8)
        return f"sent: about {size(update)} per round ({how}), {size(update * self.config.rounds)} in total"


def _rule(text: str) -> str:
    """A rule's name and options; of one that only the server has, the name that it states."""
    name, options = parse_choice(text)
    return f"{options.get('name', name)}, which only the server has" if name == STATED else text


def _steps(config: RunConfig) -> str:
    """The steps of a round, which may follow this client's speed."""
    return f"{config.local_steps:,}" if config.most_steps == config.local_steps else f"1 to {config.most_steps:,}"
