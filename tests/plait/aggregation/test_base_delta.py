import numpy as np

from plait.aggregation.base_delta import BaseDelta
from plait.aggregation.low_rank import LowRank


def delta(seed, columns=3, modules=("q", "up")):
    generator = np.random.default_rng(seed)
    return BaseDelta(
        {
            module: LowRank(generator.normal(size=(6, columns)), generator.normal(size=(columns, 5)))
            for module in modules
        }
    )


def dense(change):
    return {module: factors.b @ factors.a for module, factors in change.factors.items()}


def test_changes_of_many_rounds_add_up_exactly_in_as_many_columns_as_the_weight_has():
    total, expected = delta(0), dense(delta(0))
    for seed in range(1, 30):
        total = total.plus(delta(seed))
        expected = {module: expected[module] + product for module, product in dense(delta(seed)).items()}
    for module, product in dense(total).items():
        assert total.factors[module].columns <= 5
        np.testing.assert_allclose(product, expected[module], rtol=1e-12, atol=1e-12)


def test_a_module_that_only_one_change_has_stays():
    both = delta(0, modules=("q",)).plus(delta(1, modules=("up",)))
    assert list(both.factors) == ["q", "up"]
    np.testing.assert_array_equal(dense(both)["up"], dense(delta(1, modules=("up",)))["up"])


def test_compression_drops_what_is_no_rank():
    doubled = delta(0, columns=2).plus(delta(0, columns=2))
    assert all(factors.columns == 2 for factors in doubled.compressed().factors.values())
    for module, product in dense(doubled.compressed()).items():
        np.testing.assert_allclose(product, 2 * dense(delta(0, columns=2))[module], atol=1e-12)


def test_rounding_gives_values_that_float32_holds():
    for factors in delta(0).rounded().factors.values():
        np.testing.assert_array_equal(factors.b, factors.b.astype(np.float32))
        np.testing.assert_array_equal(factors.a, factors.a.astype(np.float32))


def test_size_and_norm_are_over_all_modules():
    assert delta(0).size == 2 * (6 * 3 + 3 * 5)
    expected = np.sqrt(sum(np.linalg.norm(product) ** 2 for product in dense(delta(0)).values()))
    np.testing.assert_allclose(delta(0).norm(), expected)
