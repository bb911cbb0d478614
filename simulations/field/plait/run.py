"""plait as it comes: a simulation with nothing set but the work. The bytes of its channel are counted outside it."""

import shutil
from contextlib import suppress

from work import Work

from plait import open_run
from plait.config import config_from_table
from plait.errors import ConfigError
from plait.ledger.events import Event, RoundFinished, RoundStarted
from plait.rounds.channel import LocalChannel, NoAnswer
from plait.simulation.execution import execute, prepare

work = Work.from_arguments()
rate = {"learning_rate": work.told["learning_rate"]} if work.told["learning_rate"] else {}
table = {
    **work.told["plait"],
    "out": str(work.out / "run"),
    "publish": str(work.out / "published"),
    **rate,
    **work.told["variant"],
}
answer_of = LocalChannel.answer
rounds = [0]


def counted(channel: LocalChannel, node: int, task: bytes) -> bytes | NoAnswer:
    """The answer of a client, both ways counted."""
    answer = answer_of(channel, node, task)
    work.sent(rounds[-1], work.clients[node], "down", bytes(task))
    if not isinstance(answer, NoAnswer):
        work.sent(rounds[-1], work.clients[node], "up", bytes(answer))
    return answer


def keep() -> None:
    """Copy published adapters, as plait keeps the newest three."""
    for published in (work.out / "published").glob("round-*"):
        kept = work.out / f"adapter-{int(published.name.removeprefix('round-'))}"
        if not kept.exists():
            shutil.copytree(published, kept)


def hear(event: Event) -> None:
    """Follow the rounds."""
    if isinstance(event, RoundStarted):
        if event.round == 1:
            work.ended(0)
        rounds.append(event.round)
        keep()
    if isinstance(event, RoundFinished):
        work.ended(event.round)


LocalChannel.answer = counted
run, data = prepare(config_from_table(table, where="the field"), quiet=True)
execute(run, data, quiet=True, on_event=hear)
keep()
shutil.copytree(work.out / "run" / "adapter", work.out / f"adapter-{work.told['rounds']}", dirs_exist_ok=True)
with suppress(ConfigError):  # where no client has an adapter of its own
    for client in work.clients:
        shutil.copytree(open_run(work.out / "run").adapter(client), work.out / "own" / client)
