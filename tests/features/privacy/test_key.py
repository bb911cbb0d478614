import stat

import pytest

from plait.errors import ConfigError
from plait.features.privacy.noise import RunKey, derived


def test_a_key_is_random_private_and_found_again(tmp_path):
    first, second = (RunKey.create(tmp_path / name) for name in ("a", "b"))
    assert first.secret != second.secret
    assert len(first.secret) == 32
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert RunKey.load(tmp_path / "a") == first
    assert RunKey.create(tmp_path / "a") == first
    assert first.secret.hex() not in repr(first)


def test_a_key_that_is_gone_damaged_or_open_to_others_is_refused(tmp_path):
    path = tmp_path / "noise.key"
    with pytest.raises(ConfigError, match="missing, expected the noise key"):
        RunKey.load(path)
    RunKey.create(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read it"):
        RunKey.load(path)
    path.chmod(0o600)
    path.write_text("zz")
    with pytest.raises(ConfigError, match="holds no noise key"):
        RunKey.load(path)


def test_noise_is_bound_to_run_round_and_updates_and_commitments_give_neither_away():
    key, other = RunKey(b"k" * 32), RunKey(b"o" * 32)
    given = {
        key.for_round(1, b"d" * 32),
        key.for_round(2, b"d" * 32),
        key.for_round(1, b"e" * 32),
        other.for_round(1, b"d" * 32),
        derived(key.for_round(1, b"d" * 32), b"sum"),
        derived(key.for_round(1, b"d" * 32), b"count"),
    }
    assert len(given) == 6
    assert key.commitment(1, b"d" * 32) == key.commitment(1, b"d" * 32)
    said = {key.check, key.commitment(1, b"d" * 32), key.commitment(2, b"d" * 32), other.commitment(1, b"d" * 32)}
    assert len(said) == 4
    assert key.for_round(1, b"d" * 32).hex() not in said
