"""A server that departs from its runs to read one client under masks, without help and without any key.

It begins runs anew, under other names or the same one, leaves clients out or lets them in, evaluates one adapter again
and again, and asks clients that were restarted, restored from a copy, or have lost everything. Each attack goes through
the real coordinator, participants, messages and journals on disk, and holds if the server has no second sum, or none
that tells of one client.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from scoreboard.row import Row
from scoreboard.small_federation import FakeModel, Federation, borrowed, no_waiting_for_the_disk

from client import consent
from client.journal_file import JournalFile
from plait.errors import DataError, PlaitError, PolicyError
from plait.guarantees.thresholds import least_survivors
from plait.privacy.client import SpentJournal
from plait.rounds.channel import Purpose
from plait.rounds.run_directory import RunDirectory
from plait.rounds.terms import DataJournal
from plait.secagg.grid import MaskedGrid
from plait.secagg.journal import SumJournal
from plait.secagg.sums import EVALUATION, Summed, sum_file
from plait.wire.masked_messages import MaskingTask
from plait.wire.masked_roster import MaskedAttempt
from plait.wire.messages import Refusal, decode_reply

masked = borrowed("plait/secagg/test_masked_rounds.py")
NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
VICTIM = "heidi"
LEAST, MOST = 3, 3


class World:
    """Clients with their data, state directories and kits, and whatever runs their server begins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.begun = folder, 0
        self.models = {name: FakeModel(float(place), 3 + place) for place, name in enumerate(NAMES)}
        self.sent: list[np.ndarray] = []

    def state(self, name: str) -> Path:
        return self.folder / name / "state"

    def journal(self, name: str) -> DataJournal:
        """As a process of the client that has just been started opens it."""
        kit = self.folder / name / "kit"
        kit.mkdir(parents=True, exist_ok=True)
        return DataJournal(JournalFile.of(self.state(name), authority=b"", data=name * 8, kit=kit))

    def begin(self, run: str, clients: Collection[str] = NAMES, **more: object):
        """A run of the same settings with these clients, of whom it has a new number, and so no earlier memory."""
        self.begun += 1
        is_evaluated = "eval_every" in more
        # The very settings of a run with everybody, as long as so few make a sum of it.
        invited = len(NAMES) if len(clients) >= least_survivors(len(NAMES)) else len(clients)
        more = {"rounds": 1, "keep_updates": True, "clients": len(clients), "cohort_size": invited, **more}
        path = self.folder / f"run-{self.begun}"
        federation = Federation(path, self.models, bits="fp32", masked=True, **more)
        if not is_evaluated:
            make = federation._coordinator
            federation._coordinator = lambda *given: _without_evaluations(make(*given))
        federation.run_id = run.encode().ljust(16)[:16]
        channel = federation.channel
        channel.gone |= {node for node, name in channel.names.items() if name not in clients}
        for participant in channel.participants.values():
            name = participant.name
            participant.way = federation.client_way(name, secret=None, journal=self.journal(name))
            participant.way.sender.masking.journal.most = MOST
        return federation

    def sum(self, federation, purpose: str = "train", number: int = 1) -> Summed | None:
        """Run it as far as it gets; the sum of a round, if the server has one."""
        encode = MaskedGrid.encode
        self.sent.clear()
        MaskedGrid.encode = lambda grid, *given, **named: (
            self.sent.append(encode(grid, *given, **named)) or self.sent[-1]
        )
        try:
            federation.run()
        except PlaitError:
            pass
        finally:
            MaskedGrid.encode = encode
        return stored(federation, purpose, number)


def _without_evaluations(coordinator):
    coordinator._evaluate = lambda state, *_: state
    return coordinator


def stored(federation, purpose: str, number: int) -> Summed | None:
    data = RunDirectory.find(federation.path).load_update(number, sum_file(purpose))
    return None if data is None else Summed.from_bytes(data)


def run(*, full: bool, scratch: Path) -> Row:
    del full
    with no_waiting_for_the_disk():
        found = {name: way(World(scratch / name.replace(" ", "_"))) for name, way in WAYS.items()}
    return Row.of("a server alone against masks", found, least=19)


def _twice(
    world: World,
    *,
    again: Collection[str],
    first: Collection[str] = NAMES,
    run: str = "another",
    between: Callable[[World], object] = lambda _: None,
    loses: str = "",
) -> str:
    """An honest run, and one of the same settings with other clients."""
    assert world.sum(world.begin("first", first)) is not None
    between(world)
    federation = world.begin(run, again)
    if loses:
        federation.channel.silent = lambda asked: asked.client == loses and asked.purpose is Purpose.TRAIN
    found = world.sum(federation)
    return "" if found is None else f"the server has a second sum, of {len(found.clients)} clients"


def _restored_from_an_older_copy(world: World) -> str:
    """All clients, to where they stood before the first run, which the copies of an earlier run show."""
    assert world.sum(world.begin("zeroth", NAMES[:5])) is not None
    for name in NAMES:
        world.state(name).mkdir(exist_ok=True)
        shutil.copytree(world.state(name), world.folder / name / "copy")

    def restore(world: World) -> None:
        for name in NAMES:
            shutil.rmtree(world.state(name))
            shutil.copytree(world.folder / name / "copy", world.state(name))

    return _twice(world, again=NAMES[:-1], between=restore)


def _all_lost_everything(world: World) -> str:
    """No client refuses; but the others' batches and rounding are not what they were."""
    first = world.sum(world.begin("first"))
    victims = world.sent[NAMES.index(VICTIM)]
    for name in NAMES:
        shutil.rmtree(world.folder / name)
    second = world.sum(world.begin("another", NAMES[:-1]))
    assert first is not None
    assert second is not None
    exact = float(np.mean(first.numbers - second.numbers == victims))
    return "" if exact < 0.5 else f"{exact:.0%} of a client's numbers are exact"


def _cohorts_that_give_two_clients_together(world: World) -> str:
    """Each two of them differ in three clients or more; the first two less the third are alice's and bob's part.

    A client that was in all of them refuses; others know of fewer sums.
    """
    return _together(world, NAMES[:5], (*NAMES[:2], *NAMES[5:]), NAMES)


def _five_cohorts_that_give_two_clients(world: World) -> str:
    """Each two differ in three clients or more, and no row of their echelon form has fewer; `a` was in all of them."""
    return _together(world, "acdeijk", "abeghj", "abcgij", "abdehi", "abdhjk")


def _together(world: World, *cohorts: Collection[str]) -> str:
    journal = SumJournal(world.journal("alice"), LEAST)
    for number, cohort in enumerate(cohorts):
        session = MaskedAttempt(bytes([number]) * 16, "train", 1, bytes(16))
        try:
            journal.check_sum(session, bytes(32), cohort)
        except PolicyError:
            return ""
        journal.note_sum(session, bytes(32), cohort)
    return f"{len(cohorts)} sums give two clients"


def _leaving_out(world: World, federation, clients: Collection[str]) -> None:
    """Clients that are not asked in evaluations."""

    def left_out(asked) -> bool:
        if asked.client not in clients or asked.purpose is not Purpose.MASK:
            return False
        task = masked.task_of(asked)
        return isinstance(task, MaskingTask) and task.session.purpose == "evaluate"

    federation.channel.silent = left_out


def _evaluated_again_under_other_names(world: World) -> str:
    """Before round 1, so of the very same adapter."""
    sums = []
    for without in ((), (NAMES[0],), (NAMES[1],), (VICTIM,)):
        federation = world.begin(f"without {''.join(without)}", eval_every=1)
        _leaving_out(world, federation, without)
        sums.append(world.sum(federation, "evaluate", 0))
    told = sum(each is not None for each in sums)
    return "" if told == 1 else f"{told} sums of losses of one adapter"


def _evaluated_for_half_of_the_clients(world: World) -> str:
    """So that another run could have the other half, but for one."""
    world.sum(world.begin("one", eval_every=1))
    found = world.sum(world.begin("other", NAMES[:-4], eval_every=1), "evaluate", 0)
    return "" if found is None else "one adapter's losses of two sets of clients"


def _evaluated_round_by_round_with_small_steps(world: World) -> str:
    """In one run that moves its adapter little, without one client each time."""
    federation = world.begin("one", eval_every=1, rounds=4, settings={"learning_rate": 0.01})
    silent: dict[int, str] = {1: NAMES[0], 2: NAMES[1], 3: VICTIM}

    def left_out(asked) -> bool:
        if asked.purpose is not Purpose.MASK or asked.client != silent.get(asked.round):
            return False
        return masked.task_of(asked).session.purpose == "evaluate"

    federation.channel.silent = left_out
    world.sum(federation)
    told = [number for number in silent if stored(federation, "evaluate", number)]
    return "" if not told else f"losses without one client in rounds {told}"


def _left_out_of_every_second_round(world: World) -> str:
    """In one run, whose adapter moves little, but so that no two rounds are of the same adapter."""
    federation = world.begin("one", rounds=14, keep_updates=True, settings={"learning_rate": 1e-3})
    federation.channel.silent = lambda asked: (
        asked.client == VICTIM and asked.purpose is Purpose.TRAIN and asked.round % 2 == 0
    )
    world.sum(federation)
    sums = [each for number in range(1, 15) if (each := stored(federation, "train", number))]
    pairs = min(sum((VICTIM in each.clients) is way for each in sums) for way in (True, False))
    return "" if sums and pairs <= MOST else f"{len(sums)} sums, {pairs} of them with a client and as many without it"


def _counts_from_changing_cohorts(world: World) -> str:
    """Whatever the server solves: what it sees is the same for clients with other amounts of data."""
    said: list[object] = []
    for factor in (1, 60):
        for name in NAMES:
            shutil.rmtree(world.folder / name, ignore_errors=True)
        world.models = {
            name: FakeModel(float(place), factor * (3 + place), 40 * factor) for place, name in enumerate(NAMES)
        }
        federation = world.begin("first", eval_every=1)
        for participant in federation.channel.participants.values():
            participant.way = federation.client_way(participant.name, journal=world.journal(participant.name))
        trained = world.sum(federation)
        evaluated = stored(federation, "evaluate", 1)
        assert trained is not None
        assert evaluated is not None
        # Of the losses those before any training, which depend on nothing but the adapter, would be the same.
        said.append((trained.figures.tolist(), trained.numbers.tolist(), len(evaluated.figures)))
        said[-1] = (*said[-1], _counted(stored(federation, "evaluate", 0)))
    return "" if said[0] == said[1] else "sums depend on how much data clients have"


def _counted(summed: Summed | None) -> list[int]:
    """The sums of all figures but the losses and their squares, whose margins follow from the data."""
    assert summed is not None
    return [int(value) for value, scale in zip(summed.figures, EVALUATION.values(), strict=True) if scale == 1]


def _refusals(world: World) -> str:
    class Short(FakeModel):
        def data_size(self, spec, settings):
            raise DataError("7 records, expected 8")

    federation, told = world.begin("first"), []
    for participant in federation.channel.participants.values():
        participant.model = Short(**vars(participant.model))
    federation.channel.tamper = lambda asked, reply: told.append(reply) or reply
    world.sum(federation)
    refusals = [decode_reply(reply, max_bytes=len(reply)) for reply in told]
    words = [reply.detail for reply in refusals if isinstance(reply, Refusal)]
    return "" if words and not any("7" in each for each in words) else f"a refusal says {words[:1]}"


def _epsilon_of_three_runs(world: World) -> str:
    spent = 0.0
    for number in range(3):
        journal = SpentJournal(world.journal(VICTIM))
        try:
            journal.charge(f"run {number}", 4.0, 1e-5, most=4.0)
        except PolicyError:
            continue
        spent += 4.0
    return "" if spent == 4.0 else f"three runs spend {spent:g} where 4 is allowed"


def _consent_to_another_run(world: World) -> str:
    consents, asked = consent.Consents.of(world.folder, "ada"), []
    for number in range(3):
        consent.agree(
            "digest", f"run {number}", consents, most_runs=9, each_run=True, yes=False, by_policy=False,
            ask=lambda: asked.append(1) or True,
        )  # fmt: skip
    return "" if len(asked) == 3 else f"asked about {len(asked)} of 3 masked runs"


def _fewer_than_the_policy_says(world: World) -> str:
    federation = world.begin("first", NAMES[:4])
    for participant in federation.channel.participants.values():
        participant.way.sender.masking.journal.least = 5
    return "" if world.sum(federation) is None else "a sum of four where the policy says five"


def _lost(folders: Callable[[World], list[Path]]) -> Callable[[World], object]:
    return lambda world: [shutil.rmtree(folder) for folder in folders(world)]


# An honest run, and another with these differences.
RUN_AGAIN: Mapping[str, Mapping[str, object]] = {
    "without one": {"again": NAMES[:-1]},
    "without two": {"again": NAMES[:-2]},
    "with one more": {"first": NAMES[:-1], "again": NAMES},
    "with one for another": {"first": NAMES[:-1], "again": (*NAMES[:-2], VICTIM)},
    "said to have dropped out": {"again": NAMES, "loses": VICTIM},
    "under the same name": {"again": NAMES[:-3], "run": "first"},
    "unmasked again under the same name": {"again": NAMES, "run": "first"},
    "removed state": {"again": NAMES[:-1], "between": _lost(lambda world: [world.state(name) for name in NAMES])},
    # Fewer than a third, with their kits' notes too: the others are enough to refuse.
    "some lost everything": {
        "again": NAMES[:-1], "between": _lost(lambda world: [world.folder / name for name in NAMES[:2]]),
    },
}  # fmt: skip
WAYS: Mapping[str, Callable[[World], str]] = {
    **{name: partial(_twice, **differences) for name, differences in RUN_AGAIN.items()},
    **{
        way.__name__.strip("_").replace("_", " "): way
        for way in (
            _restored_from_an_older_copy, _all_lost_everything, _cohorts_that_give_two_clients_together,
            _five_cohorts_that_give_two_clients, _evaluated_again_under_other_names,
            _evaluated_for_half_of_the_clients, _left_out_of_every_second_round,
            _evaluated_round_by_round_with_small_steps, _counts_from_changing_cohorts, _refusals,
            _epsilon_of_three_runs, _consent_to_another_run, _fewer_than_the_policy_says,
        )
    },
}  # fmt: skip
