"""DPO against its paper's equation, written out in float64, value and gradient."""

import numpy as np
import pytest
import torch

from plait.errors import ConfigError
from plait.objectives.formula import DPO, Reply, Sides, formula_named
from plait.training.tokenization import training_objective

GENERATOR = np.random.default_rng(3)
# Log-probabilities of four pairs: of the model's chosen and rejected replies, and the reference's; then their lengths.
W, L, W0, L0 = (-GENERATOR.uniform(1, 40, size=4) for _ in range(4))
NW, NL = (GENERATOR.integers(2, 9, size=4) for _ in range(2))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def dpo(w: np.ndarray, r: np.ndarray, beta: float = 0.1) -> np.ndarray:
    """arXiv 2305.18290, equation 7."""
    return -np.log(sigmoid(beta * (w - W0) - beta * (r - L0)))


def cdpo(w: np.ndarray, r: np.ndarray, e: float = 0.2) -> np.ndarray:
    """Mitchell's note, equation 3: the binary cross-entropy with target probability 1 - e."""
    p = sigmoid(0.1 * ((w - W0) - (r - L0)))
    return -(1 - e) * np.log(p) - e * np.log(1 - p)


def sides(w: torch.Tensor, r: torch.Tensor) -> Sides:
    w0, l0, nw, nl = (torch.tensor(each) for each in (W0, L0, NW, NL))
    return Sides(Reply(w, w0, nw), Reply(r, l0, nl))


@pytest.mark.parametrize(
    ("text", "equation"),
    [
        ("dpo", dpo),
        ("dpo:beta=0.5", lambda w, r: dpo(w, r, 0.5)),
        ("dpo:label_smoothing=0.2", cdpo),
    ],
)
def test_value_and_gradient_are_those_of_the_equation(text, equation):
    objective = formula_named(text)
    w, r = torch.tensor(W, requires_grad=True), torch.tensor(L, requires_grad=True)
    losses = objective.losses(sides(w, r))
    np.testing.assert_allclose(losses.detach().numpy(), equation(W, L), rtol=1e-12)
    losses.sum().backward()
    step = 1e-5
    for at, (tensor, moved) in enumerate(((w, lambda d: (W + d, L)), (r, lambda d: (W, L + d)))):
        slope = (equation(*moved(step)) - equation(*moved(-step))) / (2 * step)
        np.testing.assert_allclose(tensor.grad.numpy(), slope, rtol=1e-6, atol=1e-10, err_msg=f"side {at}")


def test_the_gradient_exists_where_model_and_reference_agree():
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    none = torch.zeros(1, dtype=torch.float64)
    two = torch.full((1,), 2)
    DPO().losses(Sides(Reply(w, none, two), Reply(none, none, two))).sum().backward()
    assert w.grad.item() == pytest.approx(-0.05)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dop", "did you mean 'dpo'"),
        ("sft:beta=1", "it has none"),
        ("dpo:gamma=1", "expected one of beta, label_smoothing"),
        ("dpo:beta=0", "beta of objective 'dpo' is '0', expected greater than 0"),
        ("dpo:label_smoothing=0.5", "less than 0.5"),
        ("my_module:mine", "which this machine's operator did not name"),
    ],
)
def test_a_wrong_name_or_option_is_refused_in_one_line(text, said):
    with pytest.raises(ConfigError, match=said) as raised:
        training_objective(text)
    assert "\n" not in str(raised.value)
