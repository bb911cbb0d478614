"""Standing of a run by its evaluations."""

import pytest

from plait.ledger.events import ClientScore, Evaluated
from plait.ledger.watch import EvaluationHistory, change_since, guard_after, standing_after


def score(loss: float, tokens: int) -> ClientScore:
    return ClientScore(loss=loss, tokens=tokens)


def evaluation(number: int, by_client: dict[str, ClientScore]) -> Evaluated:
    return Evaluated(round=number, loss=0.0, by_client=by_client)


def evaluated(number: int, *losses: float, tokens: int = 100) -> Evaluated:
    return evaluation(number, {f"client-{i}": score(loss, tokens) for i, loss in enumerate(losses)})


def curve(*losses: float) -> EvaluationHistory:
    """One client, evaluated after rounds 0, 1, 2 …"""
    return standing_after(evaluated(number, loss) for number, loss in enumerate(losses))


def test_a_step_that_ends_above_the_base_is_worse_by_the_difference():
    now = curve(4.0, 4.25)
    assert (now.worse, now.scale, now.accepted) == (0.25, 0.5, 0)


def test_a_rise_within_a_fiftieth_of_the_gain_is_accepted_and_one_beyond_is_not():
    # 1 nat gained: 0.02 is tolerated.
    assert curve(4.0, 3.0, 3.015).worse == 0
    assert curve(4.0, 3.0, 3.025).worse == pytest.approx(0.025)


def test_a_slow_climb_is_measured_from_the_best_evaluation_not_from_the_one_before():
    now = curve(4.0, 3.0, 3.015, 3.03)
    assert now.worse == pytest.approx(0.03)
    assert now.accepted == 2


def test_the_scale_halves_with_every_worse_evaluation_and_doubles_again_up_to_one():
    losses = [4.0, 3.0, 3.5, 3.5, 2.9, 2.8, 2.7]
    scales = [curve(*losses[: count + 1]).scale for count in range(len(losses))]
    assert scales == [1, 1, 0.5, 0.25, 0.5, 1, 1]


def test_one_client_alone_cannot_make_a_step_count_as_worse():
    honest = [evaluated(0, 4.0, 4.0, 4.0), evaluated(1, 3.5, 3.5, 3.5)]
    now = standing_after([*honest, evaluated(2, 3.4, 3.4, 100.0)])
    assert (now.worse, now.scale) == (0.0, 1.0)
    assert standing_after([*honest, evaluated(2, 3.4, 3.8, 3.8)]).worse > 0


def test_clients_that_only_one_of_two_evaluations_has_do_not_count():
    before = evaluated(0, 4.0, 9.0)
    after = evaluation(1, {"client-0": score(3.9, 100), "newcomer": score(20.0, 100)})
    assert standing_after([before, after]).worse == 0
    assert standing_after([evaluated(0, 4.0), evaluation(1, {"newcomer": score(20.0, 100)})]).accepted == 1


def test_clients_count_by_their_tokens():
    before = evaluation(0, {"large": score(4.0, 900), "small": score(4.0, 100)})
    after = evaluation(1, {"large": score(3.9, 900), "small": score(4.8, 100)})
    change = change_since(before, after)
    assert change.mean == pytest.approx((900 * -0.1 + 100 * 0.8) / 1000)
    assert (change.risen, change.clients, change.is_of_most) == (1, 2, True)


@pytest.mark.parametrize(("by", "kept"), [("", 2), ("macro_f1", 1), ("perplexity", 3)])
def test_a_metric_decides_in_the_place_of_the_loss(by, kept):
    figures = [(4.0, 0.2, 9.0), (3.9, 0.6, 8.0), (3.0, 0.5, 7.0), (3.5, 0.1, 6.0)]
    run = []
    for number, (loss, macro, perplexity) in enumerate(figures):
        metrics = {"macro_f1": macro, "perplexity": perplexity}
        each = ClientScore(loss=loss, tokens=10, metrics=metrics)
        run.append(Evaluated(round=number, loss=loss, metrics=metrics, by_client={"ada": each, "bob": each}))
    guard = guard_after("best", run, by)
    assert guard.kept
    assert guard.kept.round == kept
    if kept < 3:
        event = guard.refusal(run[-1])
        assert event.risen == pytest.approx({"": 0.5, "macro_f1": 0.1}[by] if not by else 0.9 - 0.8)
        assert (f"held-out {by} is" if by else "held-out loss is") in event.sentence
    assert standing_after(run, by).accepted == (3 if by == "perplexity" else kept)
