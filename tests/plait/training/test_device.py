import re

import pytest
import torch

from plait.errors import ConfigError
from plait.training import device
from plait.training.device import choose_compute, choose_devices, one_base_over, shares


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))


@pytest.mark.parametrize(
    ("choose", "devices", "message"),
    [
        (choose_compute, "cuda:99", "device is 'cuda:99', but this machine has none; expected one of cpu"),
        (choose_compute, "toaster", "device is 'toaster', expected auto"),
        (choose_compute, "cpu,cpu", "device is 'cpu,cpu', a list, expected one device here"),
        (choose_devices, "cpu,auto", "'auto' in the list, expected devices by name, such as cuda:0,cuda:1"),
    ],
)
def test_what_is_no_device_here_is_refused_by_its_name(choose, devices, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        choose(devices)


def test_a_list_is_its_devices_in_order_and_one_that_is_named_twice_is_shared(two_gpus, monkeypatch):
    monkeypatch.setattr(device, "cpu_features", lambda: frozenset(["avx2"]))
    found = choose_devices("cuda, cuda:1,cuda:0")
    assert [str(each.device) for each in found] == ["cuda:0", "cuda:1", "cuda:0"]
    assert shares(found) == (2, 1, 2)
    assert shares(choose_devices("cpu")) == (1,)
    assert shares(choose_devices("cpu,cpu:0")) == (2, 2)
    with pytest.raises(ConfigError, match="fastest types are bfloat16 and float32, expected one type: give --dtype"):
        choose_devices("cuda,cpu")
    assert {each.dtype for each in choose_devices("cuda,cpu", "float32")} == {torch.float32}


@pytest.mark.parametrize("devices", ["cpu,cpu", "cuda:0,cuda:0", "cpu,cuda:0"])
def test_only_different_gpus_share_a_base(devices, two_gpus):
    compute, others = one_base_over("cuda:0,cuda:1")
    assert (str(compute.device), [str(each) for each in others]) == ("cuda:0", ["cuda:1"])
    assert one_base_over("cpu")[1] == ()
    with pytest.raises(ConfigError, match="expected different GPUs, such as cuda:0,cuda:1, or a single device"):
        one_base_over(devices, "bfloat16")


def test_processes_that_share_a_card_leave_room_for_what_cuda_takes_for_each(monkeypatch):
    limits: list[int] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1, 24 * 10**9))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(device, "limit_memory", lambda _, limit: limits.append(limit))
    card = torch.device("cuda:0")
    parts = [device.take_share(card, count) for count in (1, 2, 3)]
    assert parts == limits == [0, 12 * 10**9 - device.CONTEXT_BYTES, 8 * 10**9 - device.CONTEXT_BYTES]


@pytest.mark.parametrize(
    ("chosen", "has", "dtype"),
    [
        ("cpu", {"avx512_bf16"}, torch.bfloat16),
        ("cpu", {"avx2"}, torch.float32),
        ("cuda", (8, 0), torch.bfloat16),
        ("cuda", (7, 5), torch.float16),
        ("cuda", (5, 2), torch.float32),
        ("mps", True, torch.bfloat16),
        ("mps", False, torch.float16),
    ],
    ids=str,
)
def test_a_device_computes_in_the_type_of_two_bytes_that_it_has(chosen, has, dtype, two_gpus, monkeypatch):
    monkeypatch.setattr(device, "cpu_features", lambda: has)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: has)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, _minor: has or major < 14)
    assert choose_compute(chosen).dtype is dtype
    assert choose_compute(chosen, "float32").dtype is torch.float32
