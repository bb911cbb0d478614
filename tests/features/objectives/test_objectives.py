"""Every objective against its paper's equation, written out in float64, value and gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from plait.errors import ConfigError
from plait.features.objectives.formula import Reply, Sides
from plait.features.objectives.named import FORMULAS, formula_named
from plait.training.teaching import teaching_of

GENERATOR = np.random.default_rng(3)
# Log-probabilities of four pairs: of the model's chosen and rejected replies, and the reference's; then their lengths.
W, L, W0, L0, U, U0 = (-GENERATOR.uniform(1, 40, size=4) for _ in range(6))
NW, NL, NU = (GENERATOR.integers(2, 9, size=4) for _ in range(3))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def dpo(w: np.ndarray, r: np.ndarray, beta: float = 0.1) -> np.ndarray:
    """arXiv 2305.18290, equation 7."""
    return -np.log(sigmoid(beta * (w - W0) - beta * (r - L0)))


def cdpo(w: np.ndarray, r: np.ndarray, e: float = 0.2) -> np.ndarray:
    """Mitchell's note, equation 3: the binary cross-entropy with target probability 1 - e."""
    p = sigmoid(0.1 * ((w - W0) - (r - L0)))
    return -(1 - e) * np.log(p) - e * np.log(1 - p)


def ipo(w: np.ndarray, r: np.ndarray, tau: float = 0.1) -> np.ndarray:
    """arXiv 2310.12036, equation 17, of averages over tokens."""
    return ((w - W0) / NW - (r - L0) / NL - 1 / (2 * tau)) ** 2


def orpo(w: np.ndarray, r: np.ndarray, weight: float = 0.1) -> np.ndarray:
    """arXiv 2403.07691, equations 3, 4, 6 and 7."""
    p, q = np.exp(w / NW), np.exp(r / NL)
    return -w / NW - weight * np.log(sigmoid(np.log(p / (1 - p) / (q / (1 - q)))))


def simpo(w: np.ndarray, r: np.ndarray, beta: float = 2.0, gamma: float = 0.5) -> np.ndarray:
    """arXiv 2405.14734, equation 6."""
    return -np.log(sigmoid(beta / NW * w - beta / NL * r - gamma))


def kto(w: np.ndarray, r: np.ndarray, beta: float = 0.1, up: float = 1.5, down: float = 0.75) -> np.ndarray:
    """arXiv 2402.01306, equation 8: of a pair the sum of both replies' terms; z0 has no gradient."""
    zero = max(0.0, float((U - U0).mean()))
    value = up * sigmoid(beta * (w - W0 - zero)) + down * sigmoid(beta * (zero - (r - L0)))
    return up + down - value


def sides(w: torch.Tensor, r: torch.Tensor) -> Sides:
    tensors = [torch.tensor(each) for each in (W0, L0, U, U0)]
    counts = [torch.tensor(each) for each in (NW, NL, NU)]
    w0, l0, u, u0 = tensors
    return Sides(Reply(w, w0, counts[0]), Reply(r, l0, counts[1]), Reply(u, u0, counts[2]))


@pytest.mark.parametrize(
    ("text", "equation"),
    [
        ("dpo", dpo),
        ("dpo:beta=0.5", lambda w, r: dpo(w, r, 0.5)),
        ("dpo:label_smoothing=0.2", cdpo),
        ("ipo", ipo),
        ("ipo:beta=1.5", lambda w, r: ipo(w, r, 1.5)),
        ("orpo", orpo),
        ("orpo:beta=0.7", lambda w, r: orpo(w, r, 0.7)),
        ("simpo", simpo),
        ("simpo:beta=1,simpo_gamma=0.25", lambda w, r: simpo(w, r, 1.0, 0.25)),
        ("kto:desirable_weight=1.5,undesirable_weight=0.75", kto),
        ("kto:beta=0.5", lambda w, r: kto(w, r, 0.5, 1.0, 1.0)),
    ],
)
def test_value_and_gradient_are_those_of_the_equation(
    text: str, equation: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    objective = formula_named(text)
    assert objective is not None
    w, r = torch.tensor(W, requires_grad=True), torch.tensor(L, requires_grad=True)
    losses = objective.losses(sides(w, r))
    np.testing.assert_allclose(losses.detach().numpy(), equation(W, L), rtol=1e-12)
    losses.sum().backward()
    step = 1e-5
    for at, (tensor, moved) in enumerate(((w, lambda d: (W + d, L)), (r, lambda d: (W, L + d)))):
        slope = (equation(*moved(step)) - equation(*moved(-step))) / (2 * step)
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), slope, rtol=1e-6, atol=1e-10, err_msg=f"side {at}")


def test_a_single_reply_has_the_loss_of_its_own_verdict_alone() -> None:
    objective = FORMULAS["kto"]()
    whole = sides(torch.tensor(W), torch.tensor(L))
    nothing = Reply(torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64), torch.zeros(4))
    parts = [
        objective.losses(Sides(whole.chosen, nothing, whole.unrelated)),
        objective.losses(Sides(nothing, whole.rejected, whole.unrelated)),
    ]
    torch.testing.assert_close(parts[0] + parts[1], objective.losses(whole))
    assert (parts[0] < 1).all()


def test_the_gradient_exists_where_model_and_reference_agree() -> None:
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    none = torch.zeros(1, dtype=torch.float64)
    two = torch.full((1,), 2)
    FORMULAS["dpo"]().losses(
        Sides(Reply(w, none, two), Reply(none, none, two), Reply(none, none, two))
    ).sum().backward()
    assert w.grad is not None
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
def test_a_wrong_name_or_option_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        teaching_of(text)
    assert "\n" not in str(raised.value)
