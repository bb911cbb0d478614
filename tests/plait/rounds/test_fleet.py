from __future__ import annotations

from pathlib import Path

import pytest

from plait.errors import ConfigError
from plait.rounds.fleet import PROFILES, device_of, load_fleet


def fleet(tmp_path: Path, text: str):
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return load_fleet(str(path), base_parameters=1_000_000)


def test_figures_that_are_not_given_come_from_the_profile(tmp_path: Path) -> None:
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
        ("[[device]]\nprofile = 'phone'\ndropout = 1.0\n", "less than 1"),
        (
            "[[device]]\nname='x'\ntokens_per_s=1\nup_mbps=1\ndown_mbps=1\nbattery_wh=1\n",
            "battery_wh is given without watts",
        ),
        ("[device\n", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        fleet(tmp_path, text)
    assert "\n" not in str(refused.value)
