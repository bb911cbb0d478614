"""A run's requests to this machine, in plain words for its operator, before anything is downloaded or trained."""

from __future__ import annotations

from dataclasses import dataclass

from client.wording import shown, size
from plait.aggregation.stated_rule import STATED
from plait.choice import parse_choice
from plait.config import RunConfig
from plait.policy import Policy
from plait.secagg.coding import bits_for
from plait.secagg.graph import fewest_in_sum
from plait.settle import settle
from plait.wire.codecs import codec_for


@dataclass(frozen=True)
class Proposal:
    """A run, as described to the operator.

    Attributes:
        base_fingerprint: of the base; empty if any is accepted.
        parameters: of the adapter; None if the base is not here yet.
        spent: epsilon of earlier runs on the data in this federation.
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
                f"at most {tokens:,} tokens {'at each client' if self._is_region else f'of {shown(self.data)}'}"
            ),
            *self._large,
            self._sent,
            *self._also_sent(objective.losses, f"counts of examples and tokens{labels}"),
            *self._promised,
            *self._spent,
            *self._who_sees,
        )

    @property
    def _large(self) -> tuple[str, ...]:
        beyond = self.policy.beyond(self.config)
        return (f"that is more than a client takes where nobody is asked: {', '.join(beyond)}",) if beyond else ()

    def _also_sent(self, losses: str, counts: str) -> tuple[str, ...]:
        adds_noise = self.config.dp == "client" and self.config.secure_aggregation
        besides, figures = "this machine's device and memory", f"{losses}, {counts}"
        if self._is_region:
            besides, figures = "how many clients it has and a hash of each one's name", f"means of {figures}"
        if self.config.dp == "record" or adds_noise:
            return (f"also sent: {besides}",)
        if not self.config.secure_aggregation:
            return (f"also sent: {figures}, {besides}",)
        return f"also sent under masks: {losses}, how long its update is", f"also sent: {besides}"

    @property
    def _who_sees(self) -> tuple[str, ...]:
        """What stays here, and who learns what of an update."""
        levels = self.config.levels
        if not self._is_region:
            above = "the server is a region: servers above it see the sums of its clients' updates, and not single ones"
            stays = "stays here: the data, and your personalized adapter if the run makes one"
            return stays, *((above,) if levels else ()), *self._server_sees
        below = f"{levels[1]:,} {'client' if len(levels) == 2 else 'region'}{'' if levels[1] == 1 else 's'}"
        region = f"this machine is a region, the server of {below}: it sees their updates, and sends their sum"
        if self.config.dp == "record":
            return (f"{region}, which has the clients' noise",)
        return region, "a sum can reveal parts of its clients' texts: join only a server that you trust with that"

    @property
    def _is_region(self) -> bool:
        return len(self.config.levels) > 1

    @property
    def _server_sees(self) -> tuple[str, ...]:
        if self.config.dp == "record" and not self.config.secure_aggregation:
            return ("the run is not masked: the server sees this client's own updates, which have its noise",)
        if not self.config.secure_aggregation:
            masks = "the run is not masked: the server sees this client's own updates and losses"
            return masks, "an update can reveal parts of its training text: join only a server that you trust with that"
        # With noise nobody evaluates.
        evaluators = self.config.eval_clients if self.config.dp == "off" else 0
        least = fewest_in_sum(self.config.cohort_size, evaluators, noised=self.config.dp == "client")
        masked = (
            f"the run is masked (secure aggregation): the server learns sums over {least} or more clients, and "
            "nothing of a single one's updates and losses"
        )
        if self.config.dp != "off":
            return (masked,)
        return (
            masked,
            "masks add no noise: what many clients' sum, and so the adapter, tells of a text is not hidden",
        )

    @property
    def _promised(self) -> tuple[str, ...]:
        config = self.config
        if config.dp == "off":
            return ()
        given = f"noise of {config.dp_noise_multiplier:g} times the clip norm"
        noise = f"epsilon {config.dp_epsilon:g}" if config.dp_epsilon else given
        if config.dp == "record":
            client = "each client" if self._is_region else "this client"
            return (
                (
                    f"{client} adds noise to its own training, so that no single sequence shows in what it sends: "
                    f"{noise} at delta {config.dp_delta:g}, kept by {client}'s own account"
                ),
            )
        if config.secure_aggregation:
            return (
                (
                    "this client adds its share of the noise under its masks, so that what its data change shows in no "
                    f"sum, to the server neither: {noise} at delta {config.dp_delta:g}, if the others add theirs"
                ),
            )
        who, adds = ("the server promises", "it adds") if not config.levels else ("servers promise", "they add")
        itself = "itself" if not config.levels else "themselves"
        return (
            (
                f"{who} client-level differential privacy towards everybody but {itself}: {noise} at delta "
                f"{config.dp_delta:g}; nobody can check from here that {adds} the noise"
            ),
        )

    @property
    def _spent(self) -> tuple[str, ...]:
        if not self.spent and (self.config.dp == "off" or self._is_region):
            return ()
        most = self.policy.most_epsilon
        allowed = f"at most {most:g} over all runs (max-total-epsilon)" if most else "max-total-epsilon sets no limit"
        return (f"earlier runs on these data in this federation have spent epsilon {self.spent:.4g}: {allowed}",)

    @property
    def _sent(self) -> str:
        if self._is_region:
            return "sent: in each round the exact sum of its clients' updates, 4 to 8 bytes per parameter"
        masked = self.config.secure_aggregation
        bits = self._bits_masked if masked else codec_for(self.config.wire).bits
        how = f"{bits:g} {'bit' if bits == 1 else 'bits'} per parameter"
        if self.parameters is None:
            return f"sent: updates of {how}, at most {self.policy.max_upload_mb:g} MB each (max-upload-mb)"
        update = round(self.parameters * bits / 8)
        return f"sent: about {size(update)} per round ({how}), {size(update * self.config.rounds)} in total"

    @property
    def _bits_masked(self) -> float:
        privacy, clients = settle(self.config).privacy, self.config.cohort_size
        if privacy is None or self.parameters is None:
            return bits_for(clients)
        return privacy.shares(self.parameters).bits(clients, self.parameters)


def _rule(text: str) -> str:
    """A rule's name and options; of one that only the server has, the name that it states."""
    name, options = parse_choice(text)
    return f"{options.get('name', name)}, which only the server has" if name == STATED else text


def _steps(config: RunConfig) -> str:
    """The steps of a round, which may follow this client's speed."""
    return f"{config.local_steps:,}" if config.most_steps == config.local_steps else f"1 to {config.most_steps:,}"
