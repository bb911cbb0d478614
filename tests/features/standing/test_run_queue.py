import threading

import pytest

from plait.errors import ConfigError, PeerError
from plait.features.standing.acts import Outcome
from plait.features.standing.run_queue import (
    MOST_QUEUED,
    MOST_QUEUED_OF_ONE,
    MOST_SUBMITTED,
    SUBMITTED_WITHIN_S,
    RunQueue,
    State,
    read_queue,
)

CONFIG = {"base": "tiny", "rounds": 2}


@pytest.fixture
def queue(tmp_path):
    queue = RunQueue(tmp_path / "fed")
    yield queue
    queue.close()


def submit(queue, name="", **options):
    return queue.submit(CONFIG, **{"by": "olga", "number": 7, "name": name, **options}).run


def test_runs_come_by_priority_and_then_by_age(queue):
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)):
        submit(queue, name, priority=priority)
    served = []
    while entry := queue.begin_next(wait_s=0.0):
        served.append(entry.run)
        queue.end(entry.run, Outcome.FINISHED)
    assert served == ["b", "d", "a", "c", "e"]


def test_a_killed_server_finds_everything_as_it_was(queue):
    for name in ("done", "failed", "running", "cancelled", "queued"):
        submit(queue, name, cohort_labels=("gpu",))
    queue.begin_next(wait_s=0.0)
    queue.end("done", Outcome.FINISHED)
    queue.begin_next(wait_s=0.0)
    queue.end("failed", Outcome.FAILED, "no client")
    queue.begin_next(wait_s=0.0)
    queue.cancel("cancelled", by="otto")
    before = queue.entries()
    queue.close()  # a kill leaves no more on disk than this
    again = RunQueue(queue.directory)
    assert again.entries() == before == read_queue(queue.directory)
    assert again.running().run == "running"
    assert [(entry.state, entry.detail) for entry in before] == [
        (State.FINISHED, ""), (State.FAILED, "no client"), (State.RUNNING, ""),
        (State.CANCELLED, "cancelled by otto"), (State.QUEUED, ""),
    ]  # fmt: skip
    assert again.begin_next(wait_s=0.0).run == "queued"
    again.close()


def test_a_torn_last_line_is_an_act_that_never_was_and_a_changed_one_is_refused(queue):
    submit(queue, "a")
    queue.close()
    journal = queue.directory / "federation.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[: len(whole) // 2])
    again = RunQueue(queue.directory)
    assert [entry.run for entry in again.entries()] == ["a"]
    again.close()
    journal.write_bytes(whole.replace(b"olga", b"otto"))
    with pytest.raises(PeerError, match="breaks the hash chain"):
        RunQueue(queue.directory)


def test_two_operators_at_once_lose_nothing(queue):
    names = []

    def operate(by):
        names.extend(submit(queue, by=by) for _ in range(20))

    threads = [threading.Thread(target=operate, args=(by,)) for by in ("olga", "otto")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = read_queue(queue.directory)
    assert sorted(names) == sorted(entry.run for entry in entries)
    assert len(set(names)) == 40
    assert [entry.by for entry in entries].count("olga") == 20


def test_a_full_queue_takes_no_more_until_one_is_cancelled(queue):
    names = [submit(queue, by=("olga", "otto")[number % 2]) for number in range(MOST_QUEUED)]
    with pytest.raises(ConfigError, match=f"queue is full: {MOST_QUEUED} runs wait"):
        submit(queue)
    queue.cancel(names[3], by="olga")
    submit(queue, by="otto")


def test_one_operator_cannot_fill_the_queue(queue):
    names = [submit(queue, by="otto") for _ in range(MOST_QUEUED_OF_ONE)]
    with pytest.raises(ConfigError, match=f"queue has {MOST_QUEUED_OF_ONE} runs of otto, expected fewer"):
        submit(queue, by="otto")
    submit(queue, by="olga")
    queue.cancel(names[0], by="olga")
    submit(queue, by="otto")


@pytest.mark.slow
def test_one_operator_cannot_fill_the_journal_by_submitting_and_cancelling(tmp_path):
    now = 1000.0
    queue = RunQueue(tmp_path, clock=lambda: now)
    for _ in range(MOST_SUBMITTED):
        queue.cancel(submit(queue, by="otto"), by="otto")
        now += 60
    size = (tmp_path / "federation.jsonl").stat().st_size
    assert now < SUBMITTED_WITHIN_S
    with pytest.raises(ConfigError, match=f"otto has submitted {MOST_SUBMITTED} runs within 24 hours, .* in 940 min"):
        submit(queue, by="otto")
    queue.close()
    queue = RunQueue(tmp_path, clock=lambda: now)
    with pytest.raises(ConfigError, match="otto has submitted"):
        submit(queue, by="otto")
    assert (tmp_path / "federation.jsonl").stat().st_size == size
    submit(queue, by="olga")
    now = 1000.0 + SUBMITTED_WITHIN_S
    submit(queue, by="otto")
    with pytest.raises(ConfigError, match="the next one in 1 minutes"):
        submit(queue, by="otto")
    queue.close()


def test_what_is_over_cannot_be_cancelled_or_end_otherwise(queue):
    submit(queue, "a")
    queue.begin_next(wait_s=0.0)
    assert queue.cancel("a", by="otto") is State.RUNNING
    queue.end("a", Outcome.FINISHED)  # its last round ended meanwhile
    assert queue.entry("a").state is State.CANCELLED
    for run, message in (("a", "is over"), ("b", "does not exist")):
        with pytest.raises(ConfigError, match=message):
            queue.cancel(run, by="otto")


@pytest.mark.parametrize("name", ["a", "../a", ".a", "a/b", "-a", "x" * 65, "é", "a\n"])
def test_a_name_that_is_taken_or_none_is_refused(queue, name):
    submit(queue, "a")
    with pytest.raises(ConfigError):
        submit(queue, name)
    assert len(queue.entries()) == 1


def test_a_directory_has_one_server(queue):
    with pytest.raises(ConfigError, match="being written by another process"):
        RunQueue(queue.directory)


def test_two_operators_at_once_lose_nothing_and_only_one_cancels(queue):
    started = threading.Barrier(2)
    refused = []

    def act(operator):
        started.wait()
        for number in range(10):
            submit(queue, by=operator)
            try:
                queue.cancel(f"run-{number + 1}", by=operator)
            except ConfigError as error:
                refused.append(str(error))

    operators = [threading.Thread(target=act, args=(name,)) for name in ("olga", "otto")]
    for each in operators:
        each.start()
    for each in operators:
        each.join()
    entries = queue.entries()
    assert entries == read_queue(queue.directory)
    assert [entry.run for entry in entries] == [f"run-{number + 1}" for number in range(20)]
    assert sorted(entry.by for entry in entries) == ["olga"] * 10 + ["otto"] * 10
    assert sum(entry.state is State.CANCELLED for entry in entries) == 10
    assert len(refused) == 10
    assert all("is over (cancelled: cancelled by" in each for each in refused)
