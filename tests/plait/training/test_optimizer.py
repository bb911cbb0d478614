import numpy as np
import pytest
import torch

from plait.training.learner import FlatAdamW

RATE = 1e-3


def moved(gradients: list[np.ndarray]) -> np.ndarray:
    """What AdamW adds to zeros, given these gradients one after the other."""
    size = len(gradients[0])
    optimizer = FlatAdamW(
        np.zeros(size, np.float32), [size], [True], weight_decay=0.0, moments=None, device=torch.device("cpu")
    )
    for gradient in gradients:
        optimizer.take([torch.from_numpy(gradient.astype(np.float32))])
        optimizer.step(RATE)
    return optimizer.master.numpy().copy()


@pytest.fixture
def gradients() -> list[np.ndarray]:
    return [np.random.default_rng(seed).normal(size=1000) for seed in range(3)]


@pytest.mark.parametrize("scale", [1e-4, 1e-8, 1e-11])
def test_steps_tell_nothing_of_the_size_of_gradients(gradients: list[np.ndarray], scale: float) -> None:
    usual = moved(gradients)
    # Adam's own formula (arXiv 1412.6980, algorithm 1) without an epsilon, in float64.
    mean, square, expected = np.zeros(1000), np.zeros(1000), np.zeros(1000)
    for step, gradient in enumerate(gradients, 1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        expected -= RATE * (mean / (1 - 0.9**step)) / np.sqrt(square / (1 - 0.999**step))
    np.testing.assert_allclose(usual, expected, atol=1e-3 * RATE)
    np.testing.assert_allclose(moved([gradient * scale for gradient in gradients]), usual, atol=1e-3 * RATE)


def test_a_gradient_that_is_too_small_to_square_moves_nothing(gradients: list[np.ndarray]) -> None:
    assert not moved([gradients[0] * 1e-30]).any()
