"""What a client sends in the masked sums of its run: the answers of their stages, its update, its losses.

Where it stands is stored before an answer leaves: a client that was killed neither gives two shares of one peer nor
sends two updates under one mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, norm
from plait.aggregation import Side, geometry_of, slices_of
from plait.errors import PeerError, PolicyError
from plait.guarantees import LEAST_CLIENTS
from plait.privacy.client import ClientCharge
from plait.rounds.client_pipeline import ClientContext, Outgoing
from plait.rounds.evaluation import client_losses
from plait.rounds.local_model import TrainJob
from plait.rounds.terms import JUDGE_TASK, TaskHistory
from plait.secagg.client import MaskingClient
from plait.secagg.journal import SumJournal
from plait.secagg.rounds import MaskedRounds, check_grid, privacy_of_clients
from plait.secagg.sums import NOISED, TRAINING, Coding, MaskedGrid, encode_figures, evaluation_figures
from plait.trust.masks import Ring
from plait.wire import masked_messages as messages
from plait.wire.envelope import Header
from plait.wire.masked_roster import MaskedAttempt, Roster
from plait.wire.messages import EvaluateTask, Evaluation, TrainTask
from plait.wire.settings import Settings

_KEY = "secagg"
_TASKS = {"train": TrainTask.__name__, "evaluate": EvaluateTask.__name__, "judge": JUDGE_TASK}


@dataclass(eq=False)
class UnderMasks:
    """How one client sends its numbers.

    It has no identity where the driver proves no keys, and no journal in a simulation of a single operator.
    """

    speaker: ClientContext
    rounds: MaskedRounds

    def __post_init__(self) -> None:
        speaker, rounds = self.speaker, self.rounds
        policy = speaker.terms.policy if speaker.terms else None
        least = policy.min_masked_clients if policy else LEAST_CLIENTS
        most = policy.max_repeats if policy and not (rounds.draws or rounds.privacy) else None
        self._identity = speaker.identity() if speaker.identity else None
        self._journal = SumJournal(speaker.journal, least, most) if speaker.journal else None

    def settings(self, settings: Settings) -> Settings:
        """Those of the task, with the client's own seed: the server may not know its batches."""
        return self.speaker.own_secret.seeded(settings)

    def begin(self, job: TrainJob) -> TrainJob:
        """The job, for the grid of the round's roster."""
        header, settings = _header_of(job), job.settings
        roster = self._roster_for(header.run_id, "train", settings.round)
        self._agree(roster, header.result_digest)
        sides = {Side(each) for each in settings.trained} - ({Side(settings.personal)} if settings.personal else set())
        clients = len(roster.offers)
        coding, parts = Coding(Ring(roster.bits), clients, roster.unit), slices_of(geometry_of(job.spec), sides)
        key = self.speaker.own_secret.rounding(settings.round, header.result_digest)
        grid = MaskedGrid(coding, parts, header.result_digest, settings.round, key)
        size, figures = grid.rotation.rotated_size, len(NOISED if settings.adds_share else TRAINING)
        if (roster.size, roster.figures) != (size, figures):
            raise PeerError(
                f"masked sum has {roster.size} numbers and {roster.figures} figures, expected {size} and {figures}"
            )
        if settings.adds_share:
            check_grid(privacy_of_clients(settings), size, bits=roster.bits, unit=roster.unit, clients=clients)
        return replace(job, grid=grid)

    def update(self, job: TrainJob, outgoing: Outgoing) -> messages.MaskedReply:
        """The update under the masks of the round's roster."""
        header, grid, settings = _header_of(job), job.grid, job.settings
        if not isinstance(grid, MaskedGrid):
            raise ValueError("the job has no grid of a roster")
        roster = self._roster_for(header.run_id, "train", settings.round)
        if settings.adds_share:
            numbers, figures = self._noised(grid, outgoing.delta, settings, roster)
        else:
            numbers = outgoing.numbers
            if numbers is None:
                numbers, _ = grid.rounded(outgoing.delta)
            square = (norm(outgoing.delta) / grid.coding.unit) ** 2
            figures = encode_figures({"square": square}, TRAINING)
        return self.masked(roster.session, numbers, figures, received=header.result_digest)

    def losses(self, header: Header, settings: Settings, measure: Callable[[], Evaluation]) -> messages.MaskedReply:
        """The losses under the masks of the evaluation's roster."""
        purpose = "judge" if settings.judging else "evaluate"
        roster = self._roster_for(header.run_id, purpose, settings.round)
        scales = self.rounds.evaluated
        if (roster.size, roster.figures) != (0, len(scales)):
            raise PeerError(f"masked sum has {roster.figures} figures, expected {len(scales)}")
        self._agree(roster, header.result_digest)
        figures = encode_figures(evaluation_figures(*client_losses(measure())), scales)
        return self.masked(roster.session, np.zeros(0, np.int32), figures, received=header.result_digest)

    def answer(self, task: messages.MaskingTask) -> messages.MaskedReply:
        """A stage of a sum."""
        session, stage, identity = task.session, task.stage, self._identity
        if self.speaker.terms:
            self.speaker.terms.check_round(session.round, least=int(session.purpose == "train"))
            least = self.rounds.least(session.purpose)
            if isinstance(stage, Roster) and (count := len(stage.offers)) < least:
                raise PolicyError(
                    f"roster of the masked sum has {count} clients, expected at least {least} of those that the run "
                    "configuration invites"
                )
        if identity is None:
            raise PeerError("a masked sum is requested of a client that has no keys that others could check")
        client = self._recall()
        answer: messages.Answered
        match stage:
            case None:
                if self._journal:
                    self._journal.check_open(session)
                    self._note_unsure(client, session)
                client, answer = client.offer(session, identity)
            case Roster():
                client, parcels = client.share(stage, identity.vouch)
                answer = messages.Parcels(parcels)
            case messages.Delivery():
                client, unreadable = client.deliver(session, stage.sharers, stage.parcels)
                answer = messages.Ready(unreadable)
            case messages.UnopenedParcel():
                client, key = client.show(session, stage.receiver)
                answer = messages.ParcelKey(key)
            case messages.Survivors():
                self._check_sum(client, stage.survivors)
                client, signature = client.sign(session, stage.survivors, stage.signatures, identity.sign)
                answer = messages.Signed(signature)
            case messages.Unmasking():
                is_first = client.revealed is None
                if is_first:
                    self._check_sum(client, stage.survivors)
                client, shares = client.reveal(session, stage.survivors, stage.signatures)
                if is_first:
                    self._check_sum(client, stage.survivors, notes=True)
                answer = messages.Revealed(shares)
        return self._reply(client, answer)

    def masked(
        self, session: MaskedAttempt, numbers: NDArray[np.integer], figures: NDArray[np.uint64], *, received: bytes
    ) -> messages.MaskedReply:
        """Numbers, and figures modulo 2^64, under this attempt's masks."""
        client = self._recall()
        if client.roster is None or self._identity is None:
            raise PeerError("the masked sum is over")
        ring = Ring(client.roster.bits)
        client, values, hidden, signature = client.masked(
            session, ring.reduced(numbers), figures, received=received, sign=self._identity.sign
        )
        return self._reply(client, messages.MaskedUpdate(ring.pack(values), hidden.astype("<u8").tobytes(), signature))

    def _reply(self, client: MaskingClient, answer: messages.Answered | messages.MaskedUpdate) -> messages.MaskedReply:
        self.speaker.memory.save(_KEY, client.to_bytes())
        return messages.MaskedReply(self.speaker.name, answer)

    def _check_sum(self, client: MaskingClient, survivors: Sequence[int], *, notes: bool = False) -> None:
        """Refuse, or note, a sum of these places in the journal."""
        if self._journal and client.session and (roster := client.roster):
            roster.check_places(survivors, "survivors")
            do = self._journal.note_sum if notes else self._journal.check_sum
            do(client.session, client.received, [roster.offers[place].client for place in survivors])

    def _note_unsure(self, client: MaskingClient, next_one: MaskedAttempt) -> None:
        """Note a sum that its numbers may be in, though nobody asked it to unmask them: a third need not be asked."""
        before, roster = client.session, client.roster
        if not (self._journal and before and roster and client.has_masked) or client.revealed is not None:
            return
        if (before.series, before.round) != (next_one.series, next_one.round):
            places = client.signed or range(len(roster.offers))
            names = [roster.offers[place].client for place in places]
            self._journal.note_sum(before, client.received, names, is_sure=False)

    def _roster_for(self, run_id: bytes, purpose: str, number: int) -> Roster:
        """The roster that an update or losses are masked for; before anything is trained."""
        client = self._recall()
        session, roster = client.session, client.roster
        is_it = session is not None and (session.run_id, session.purpose, session.round) == (run_id, purpose, number)
        if not is_it or roster is None or not client.sharers or client.has_masked:
            raise PeerError(
                f"round {number} is requested without a masked sum at that stage ({purpose}): keys and shares come "
                "first: this run's server may learn sums alone"
            )
        return roster

    def _agree(self, roster: Roster, received: bytes) -> None:
        """Refuse to mask anything for a roster whose sum, if nobody is lost, would reveal few clients."""
        if self._journal:
            self._journal.check_sum(roster.session, received, [offer.client for offer in roster.offers])

    def _recall(self) -> MaskingClient:
        data = self.speaker.memory.load(_KEY)
        if data is not None:
            return MaskingClient.from_bytes(data)
        # Of rounds that it was asked for before its journal was lost, it may have unmasked any.
        asked = TaskHistory.recall(self.speaker.memory)
        newest = {purpose: asked.newest.get(task, -1) for purpose, task in _TASKS.items()}
        closed = {f"{asked.run_id} {purpose}": number for purpose, number in newest.items() if number >= 0}
        return MaskingClient(self.speaker.name, closed=closed)

    def _noised(
        self, grid: MaskedGrid, delta: AdapterState, settings: Settings, roster: Roster
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Numbers and figures of a delta with this client's share of the noise; paid for by then."""
        speaker = self.speaker
        if speaker.terms and speaker.terms.policy:
            most, attempt = speaker.terms.policy.max_repeats, roster.digest
            TaskHistory.recall(speaker.memory).note_given(speaker.memory, roster.session.round, attempt, most)
            if self.rounds.privacy:
                ClientCharge(speaker, self.rounds.privacy).pay()
        numbers, within = grid.noised(
            delta,
            privacy_of_clients(settings),
            survivors=roster.threshold,
            key_of=lambda digest: self._recall().noise_key(roster.session, digest),
        )
        return numbers, encode_figures({"within": within}, NOISED)


def _header_of(job: TrainJob) -> Header:
    if job.header is None:
        raise ValueError("the job belongs to no task")
    return job.header
