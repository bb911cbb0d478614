import math
import stat
from decimal import Decimal

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from plait.errors import ConfigError
from plait.privacy import noise
from plait.privacy.noise import BLOCK, DiscreteGaussian, IntegerGaussian, Keystream, RunKey, derived, tail

KEY = bytes(range(32))


def is_chi_square(observed, expected, count):
    """Small where cells are large enough, and hardly a draw in the others."""
    enough = expected > 10
    statistic = float(((observed - expected) ** 2 / np.maximum(expected, 1e-300))[enough].sum())
    freedom = int(enough.sum()) - 1
    # Wilson and Hilferty: a normal variable at 5 standard deviations.
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 5 * math.sqrt(2 / (9 * freedom))) ** 3
    assert count - observed[enough].sum() < 200


def above(k: float, sigma: float) -> float:
    return math.erfc(k / (sigma * math.sqrt(2))) / 2


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.5, 4096.0])
def test_the_numbers_have_the_distribution_of_a_rounded_gaussian(sigma):
    """Chi-square of 2 million draws; a draw that is off by one in a hundred cells' edges would fail."""
    count = 2_000_000
    drawn = IntegerGaussian(sigma).draw(Keystream(KEY), count)
    # Cells of about equal probability, cut between whole numbers.
    edges = sorted({math.floor(sigma * x) + 0.5 for x in np.linspace(-4, 4, 81)})
    upper = np.array([above(edge, sigma) for edge in edges])
    expected = count * -np.diff(np.concatenate([[1.0], upper, [0.0]]))
    observed = np.histogram(drawn, [-np.inf, *edges, np.inf])[0]
    is_chi_square(observed, expected, count)


@pytest.mark.parametrize("sigma", [0.3, 11.0])
@pytest.mark.parametrize("k", [0, 1, 5, 40])
def test_the_tail_is_exact_far_beyond_floats(sigma, k):
    x = (Decimal(k) + Decimal("0.5")) / Decimal(sigma)
    if x < 12:
        assert float(tail(k, sigma)) == pytest.approx(math.erfc(float(x) / math.sqrt(2)), rel=1e-13)
    # Q(x) lies between x/(1+x^2) and 1/x times the density (Gordon 1941).
    density = 2 * (-x * x / 2).exp() / Decimal(2 * math.pi).sqrt()
    if 1 < x < 18:
        assert density * x / (1 + x * x) < tail(k, sigma) * (1 + Decimal("1e-12"))
        assert tail(k, sigma) * (1 - Decimal("1e-12")) < density / x


def test_draws_next_to_an_edge_are_decided_exactly(monkeypatch):
    """With a wide guard many draws take the exact way; the numbers stay the same."""
    fast = IntegerGaussian(50.0).draw(Keystream(KEY), 3000)
    monkeypatch.setattr(noise, "_GUARD", 1e-3)
    careful = IntegerGaussian(50.0)
    decided = []
    resolved = IntegerGaussian._resolved

    def counted(self, drawn, guess, stream):
        decided.append(drawn)
        return resolved(self, drawn, guess, stream)

    monkeypatch.setattr(IntegerGaussian, "_resolved", counted)
    np.testing.assert_array_equal(careful.draw(Keystream(KEY), 3000), fast)
    assert len(decided) > 100


def test_the_far_tail_is_not_cut_off():
    """f = 0 to 63 bits lies beyond the table; further bits decide."""
    gaussian = IntegerGaussian(2.0)

    class Zeros:
        def words(self, count):
            return np.full(count, 1 << 20, np.uint64)

    far = gaussian._resolved(0, 18, Zeros())
    assert tail(far, 2.0) <= Decimal((1 << 20) + 1) / Decimal(1 << 127) < tail(far - 2, 2.0)
    assert far > noise._REACH * 2


def test_every_number_follows_from_the_keystream_by_the_definition():
    """AES of a counter, and the least k whose exact tail is at most f, searched by halving."""
    encryptor = Cipher(AES(KEY), ECB()).encryptor()
    drawn = IntegerGaussian(1000.0).draw(Keystream(KEY), 20)
    for index, number in enumerate(drawn.tolist()):
        block = encryptor.update((index // 2).to_bytes(16, "big"))
        word = int.from_bytes(block[8 * (index % 2) :][:8], "little")
        f = Decimal(word % (1 << 63)) / (1 << 63)
        low, high = -1, 20_000
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if tail(middle, 1000.0) <= f else (middle, high)
        assert number == (-high if word >> 63 else high)


def test_the_same_key_gives_the_same_numbers_on_any_machine_and_another_key_others():
    gaussian = IntegerGaussian(1000.0)
    drawn = gaussian.draw(Keystream(KEY), BLOCK + 5)
    np.testing.assert_array_equal(drawn, gaussian.draw(Keystream(KEY), BLOCK + 5))
    assert drawn[:5].tolist() == [-482, -2908, -261, 709, -705]
    other = gaussian.draw(Keystream(KEY[::-1]), BLOCK + 5)
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.03


def chances(variance, centre, places):
    """Of whole numbers, in float64; none is beyond 12 deviations."""
    far = math.ceil(12 * math.sqrt(variance)) + 2
    every = np.arange(math.floor(centre) - far, math.floor(centre) + far + 1)
    density = np.exp(-((every - centre) ** 2) / (2 * variance))
    found = dict(zip(every.tolist(), (density / density.sum()).tolist(), strict=True))
    return np.array([found.get(place, 0.0) for place in places])


def chi_square_is_small(drawn, places, expected):
    counted = np.array([(drawn == place).sum() for place in places])
    is_chi_square(counted, expected, len(drawn))


@pytest.mark.parametrize("variance", [5.0, 85.3])
@pytest.mark.parametrize(("rest", "bits"), [(0, 3), (1, 10), (511, 10), (512, 10), (1023, 10), (0, 0)])
def test_the_numbers_around_any_fraction_have_the_distribution_of_the_discrete_gaussian(variance, rest, bits):
    whole, count = -7, 300_000
    centres = np.full(count, whole * (1 << bits) + rest)
    drawn = DiscreteGaussian(variance, bits).draw(Keystream(KEY), centres)
    places = np.arange(whole - 60, whole + 60)
    chi_square_is_small(drawn, places, count * chances(variance, whole + rest / (1 << bits), places))


@pytest.mark.slow
def test_what_the_table_cannot_decide_is_decided_exactly(monkeypatch):
    """A coarse table leaves many draws to exact numbers, and gives the same result."""
    centres = np.random.default_rng(0).integers(-5000, 5000, 1500)
    fine = DiscreteGaussian(5.0, 6).draw(Keystream(KEY), centres)
    monkeypatch.setattr(noise, "_ROW_GUARD", 0.02)
    coarse, asked = DiscreteGaussian(5.0, 6), []
    resolved = coarse._resolved
    monkeypatch.setattr(coarse, "_resolved", lambda *given: asked.append(given) or resolved(*given))
    np.testing.assert_array_equal(coarse.draw(Keystream(KEY), centres), fine)
    assert len(asked) > 15


def test_the_rarest_draws_reach_beyond_the_table():
    gaussian = DiscreteGaussian(5.0, 2)
    for row in (0, 1, 4):
        assert gaussian._resolved(0, row, Keystream(KEY)) <= -19
        assert gaussian._resolved((1 << 63) - 1, row, Keystream(KEY)) in (0, 1)


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
    with pytest.raises(ConfigError, match="missing: without its noise key"):
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
