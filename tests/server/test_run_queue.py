import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from plait.errors import ConfigError, PeerError
from server.standing import MOST_QUEUED, RunQueue, State, read_queue

CONFIG = {"base": "tiny", "rounds": 2}


@pytest.fixture
def queue(tmp_path):
    queue = RunQueue(tmp_path / "fed")
    yield queue
    queue.close()


def submit(queue, name="", **options):
    return queue.submit(CONFIG, **{"number": 7, "name": name, **options}).run


def test_runs_come_by_priority_and_then_by_age(queue):
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)):
        submit(queue, name, priority=priority)
    served = []
    while entry := queue.begin_next(wait_s=0.0):
        served.append(entry.run)
        queue.end(entry.run, State.FINISHED)
    assert served == ["b", "d", "a", "c", "e"]


def test_a_killed_server_finds_everything_as_it_was(queue):
    for name in ("done", "failed", "running", "cancelled", "queued"):
        submit(queue, name)
    queue.begin_next(wait_s=0.0)
    queue.end("done", State.FINISHED)
    queue.begin_next(wait_s=0.0)
    queue.end("failed", State.FAILED, "no client")
    queue.begin_next(wait_s=0.0)
    queue.cancel("cancelled")
    before = queue.entries()
    queue.close()  # a kill leaves no more on disk than this
    again = RunQueue(queue.directory)
    assert again.entries() == before == read_queue(queue.directory)
    assert again.running().run == "running"
    assert [(entry.state, entry.detail) for entry in before] == [
        (State.FINISHED, ""), (State.FAILED, "no client"), (State.RUNNING, ""), (State.CANCELLED, ""),
        (State.QUEUED, ""),
    ]  # fmt: skip
    assert again.begin_next(wait_s=0.0).run == "queued"
    again.close()


def test_a_file_that_was_being_written_is_none_and_a_damaged_one_is_refused(queue):
    submit(queue, "a")
    queue.close()
    file = queue.directory / "queue" / "a.json"
    whole = file.read_bytes()
    (file.parent / ".b.json.x1y2").write_bytes(whole[:20])
    assert [entry.run for entry in read_queue(queue.directory)] == ["a"]
    for changed in (whole[:20], whole.replace(b'"a"', b'"../b"'), json.dumps({"run": "a"}).encode()):
        file.write_bytes(changed)
        with pytest.raises(PeerError, match=r"queue/a\.json' is "):
            RunQueue(queue.directory)


def test_submissions_at_once_lose_nothing(queue):
    with ThreadPoolExecutor(2) as pool:
        names = list(pool.map(lambda _: submit(queue), range(40)))
    assert sorted(names) == sorted(entry.run for entry in read_queue(queue.directory))
    assert len(set(names)) == 40


def test_a_full_queue_takes_no_more_until_one_is_cancelled(queue):
    names = [submit(queue) for _ in range(MOST_QUEUED)]
    with pytest.raises(ConfigError, match=f"queue is full: {MOST_QUEUED} runs wait"):
        submit(queue)
    queue.cancel(names[3])
    submit(queue)


def test_a_cancelled_run_stays_cancelled_and_one_that_is_over_cannot_be(queue):
    submit(queue, "a")
    queue.begin_next(wait_s=0.0)
    assert queue.cancel("a") is State.RUNNING
    queue.end("a", State.FINISHED)
    assert queue.entry("a").state is State.CANCELLED
    with pytest.raises(ConfigError, match=r"run 'a' is over \(cancelled\)"):
        queue.cancel("a")
    with pytest.raises(ConfigError, match="run 'b' does not exist"):
        queue.cancel("b")


def test_names_are_those_of_directories_and_each_is_free(queue):
    for name in ("../x", "a b", "-a", "x" * 65):
        with pytest.raises(ConfigError, match="expected letters, digits"):
            submit(queue, name)
    submit(queue, "run-2")
    (queue.folder("run-3")).mkdir()
    assert submit(queue) == "run-4"
    for name in ("run-2", "run-3"):
        with pytest.raises(ConfigError, match="exists already"):
            submit(queue, name)
