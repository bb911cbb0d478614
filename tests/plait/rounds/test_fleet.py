from dataclasses import replace
from pathlib import Path

import pytest

from plait.errors import ConfigError
from plait.ledger.fleet import Fleet, FleetDevice, tasks_of
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.rounds.buffer import Buffer
from plait.rounds.fleet import PROFILES, device_of, load_fleet
from plait.rounds.paces import BySpeed, ClientSpeeds
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_plan import TaskSettings
from plait.simulation.virtual_clock import VirtualChannel, clock_after
from plait.wire.messages import TrainTask, decode_task
from tests.plait.rounds.conftest import SEED, InProcessChannel, rounds_of
from tests.plait.rounds.test_coordinator import crowd


def fleet(tmp_path: Path, text: str):
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return load_fleet(str(path), base_parameters=1_000_000)


def test_figures_that_are_not_given_come_from_the_profile(tmp_path):
    found = fleet(tmp_path, '[[device]]\nprofile = "phone"\ncount = 2\nup_mbps = 5\n[[device]]\nprofile = "H100"\n')
    phone, h100 = found.devices
    assert (phone.name, phone.up_mbps, phone.down_mbps) == ("phone", 5.0, PROFILES["phone"].down_mbps)
    # 4 operations per parameter and token.
    assert h100.tokens_per_s == pytest.approx(989.4e12 * 0.3 / 4e6)
    assert [device_of(found, node).name for node in range(5)] == ["phone", "phone", "H100", "phone", "phone"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "device: Field required"),
        ("[[device]]\nnames = 'x'\n", "did you mean 'name'"),
        ("[[device]]\nprofile = 'fone'\n", "there is no profile 'fone'; did you mean 'phone'"),
        ("[[device]]\nname = 'x'\ntokens_per_s = 5\nup_mbps = 1\n", "device 1: down_mbps is missing"),
        ("[[device]]\nprofile = 'phone'\nhours = '8-8'\n", "expected two different hours"),
        ("[[device]]\nprofile = 'phone'\nhours = 'night'\n", "expected FROM-TO"),
        (
            "[[device]]\nname='x'\ntokens_per_s=1\nup_mbps=1\ndown_mbps=1\nbattery_wh=1\n",
            "battery_wh is given without watts",
        ),
        ("[device\n", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as refused:
        fleet(tmp_path, text)
    assert "\n" not in str(refused.value)


SPEEDS = (0.02, 0.04, 0.06, 0.1, 0.2)  # a step of 8 tokens takes the slowest 400 s


def fleet_of(**more) -> Fleet:
    """A device of each speed."""
    return Fleet(
        devices=tuple(
            FleetDevice(name=f"speed-{speed}", tokens_per_s=speed, up_mbps=1, down_mbps=1, **more) for speed in SPEEDS
        ),
        notice_s=300,
        time_evaluations=False,
    )


def on_devices(federation, fleet):
    """The same federation on these devices, numbered from 0 as a simulation's are."""
    inner = federation.channel
    channel = InProcessChannel(dict(enumerate(inner.participants.values())), dict(enumerate(inner.names.values())))

    settings = replace(federation.plan.settings, local_steps=4)
    federation.plan = replace(federation.plan, settings=settings)
    text = TaskSettings(federation.plan, federation.rule, new_factors=False).to_describe().text

    def work(node, task):
        data = b"".join(task)
        read = decode_task(data, max_bytes=len(data), held=lambda _: text)
        return 8.0 * read.settings.steps_taken if isinstance(read, TrainTask) else 1.0

    nodes = {name: node for node, name in channel.names.items()}
    clock = clock_after(RunDirectory(federation.path), fleet, nodes)
    federation.channel = VirtualChannel(channel, clock, work, seed=SEED)
    return federation


BY_SPEED = {"stepping": BySpeed(), "speeds": ClientSpeeds.of}
FAILING = {"dropout": 0.25}
BUFFER = Buffer(size=2, max_staleness=5, at_work=4)
ASYNCHRONOUS = rounds_of(BUFFER)


def told(federation):
    """What has to be the same after a kill: adapters and times, arrivals, and what devices did."""
    view = read_view(federation)
    finished = [(each.adapter, each.virtual_s) for each in view.rounds.values()]
    arrived = sorted((each.round, each.fold or 0, each.client, each.weight or 0) for each in view.updates.values())
    worked = tasks_of(view)
    done = [(each.round, each.client, each.purpose, each.began_s, each.ended_s, each.outcome) for each in worked]
    return finished, arrived, done


@pytest.mark.slow
@pytest.mark.parametrize("plan", [{"rounds": 6, **BY_SPEED}, {"rounds": 10, **ASYNCHRONOUS}])
def test_who_is_silent_and_overdue_is_given_up_and_a_run_that_is_killed_does_the_same(
    federate, fake_model, snapshots_of, plan
):
    options = {"attempts": 3, "keep_updates": True, "quorum": 1, **plan}
    federation = on_devices(federate(crowd(fake_model, 5), **options), fleet_of(**FAILING))
    snapshots = snapshots_of(federation)
    snapshots.run()
    expected = told(federation)
    given_up = [event for event in federation.of_kind("update_refused") if event["reason"] == "silent"]
    assert given_up
    assert all("its answer is overdue" in event["detail"] for event in given_up)
    # As long as it is not known what to expect, only five minutes of silence tell.
    assert [event for event in federation.of_kind("update_refused") if event["reason"] == "no-answer"]
    noticed = [span.ended_s - span.worked_s for span in tasks_of(read_view(federation)) if span.outcome == "dropped"]
    assert max(noticed) == pytest.approx(300)
    assert federation.recomputed() == plan["rounds"]
    for where, killed in snapshots.killed[::200]:
        on_devices(killed, fleet_of(**FAILING)).run()
        assert told(killed) == expected, where


def read_view(federation) -> RunView:
    return RunView.of(read_events(federation.path / "ledger.jsonl"))
