"""Metrics: what clients add up gives the figures of the pooled predictions, by scikit-learn on these predictions."""

import json
import math

import numpy as np
import pytest

import plait
from plait.errors import ConfigError, PeerError
from plait.ledger.events import Evaluated
from plait.rounds.evaluation import together
from plait.rounds.metrics import RunMetrics

LABELLED = "accuracy,macro_f1,auroc,confusion"


def predictions(classes: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of three clients: logits and labels, of which one client lacks a class."""
    drawn = np.random.default_rng(seed)
    found = []
    for size in (40, 25, 60):
        labels = drawn.integers(0, classes - (size == 25), size)
        found.append((drawn.normal(size=(size, classes)) + 1.5 * np.eye(classes)[labels], labels))
    return found


@pytest.mark.extra("metrics")
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("masked", "within"), [(False, 1e-4), (True, 1e-3)])
def test_the_sums_of_clients_give_scikit_learns_figures_of_the_pooled_predictions(classes, masked, within):
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score

    metrics, clients = RunMetrics.of(LABELLED, classes, masked=masked), predictions(classes, seed=classes)
    sums = together(metrics.of_labels(*client) for client in clients)
    metrics.check(sums, least=125, most=125)
    figures, confusion = metrics.figures(sums)
    logits, labels = (np.concatenate(part) for part in zip(*clients, strict=True))
    chosen, exact = logits.argmax(1), np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert figures["accuracy"] == pytest.approx(accuracy_score(labels, chosen), abs=1e-12)
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, chosen, average="macro"), abs=1e-12)
    assert confusion == tuple(map(tuple, confusion_matrix(labels, chosen).tolist()))
    scores = exact[:, 1] if classes == 2 else exact
    assert figures["auroc"] == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"), abs=within)
    # Rounded to the cells first, the scores give the same area.
    odds = np.log(exact) - np.log1p(-exact)
    cells = np.floor((odds + 16) * metrics.cells / 32)
    areas = [roc_auc_score(labels == each, cells[:, each]) for each in ([1] if classes == 2 else range(classes))]
    assert figures["auroc"] == pytest.approx(math.fsum(areas) / len(areas), abs=1e-12)


@pytest.mark.parametrize(
    ("names", "classes", "match"),
    [
        ("macrof1", 3, "did you mean 'macro_f1'"),
        ("macro_f1", 0, "the data has no labels"),
        ("rouge_l", 3, "the data has labels"),
        ("auroc", 200, "at most 128"),
        ("confusion", 60_000, "at most 128"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(names, classes, match):
    with pytest.raises(ConfigError, match=match):
        RunMetrics.of(names, classes)


@pytest.mark.parametrize(
    ("names", "classes", "sums"),
    [
        ("accuracy", 2, {0: 3.0, 3: 1.0, 4: 1.0}),
        ("accuracy", 2, {0: 3.5, 3: 0.5}),
        ("accuracy", 2, {0: 3.0}),
        ("auroc", 3, {0: 4.0}),
        ("exact_match", 0, {0: 4.0, 2: 5.0}),
        ("exact_match", 0, {0: 9.0}),
        ("bits_per_byte", 0, {0: 4.0, 1: 4.0}),
        ("bits_per_byte", 0, {0: 4.0, 1: 4.0, 2: math.inf}),
        ("loss", 0, {0: 1e308, 1: 4.0, 2: 4.0}),
        ("", 0, {0: 1.0}),
    ],
)
def test_sums_that_no_four_examples_give_are_refused(names, classes, sums):
    with pytest.raises(PeerError, match="sums of metrics"):
        RunMetrics.of(names, classes).check(sums, least=4, most=4)


def test_text_and_answers_give_their_means():
    metrics = RunMetrics.of("bits_per_byte,perplexity,exact_match,token_f1", 0)
    parts = [
        together((metrics.of_text(8.0, 4, 20), metrics.of_scores({"exact_match": 1, "token_f1": 1.5}, 2, 0.5))),
        together((metrics.of_text(2.0, 6, 20), metrics.of_scores({"exact_match": 0, "token_f1": 0.5}, 2, 0.5))),
    ]
    figures, confusion = metrics.figures(together(parts))
    assert confusion is None
    assert figures == pytest.approx(
        {
            "bits_per_byte": 10 / 40 / math.log(2), "perplexity": math.e, "exact_match": 0.25, "token_f1": 0.5,
            "generation_s": 1.0,
        }
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.promise
@pytest.mark.extra("metrics")
@pytest.mark.parametrize("masked", [False, True])
def test_a_simulation_on_labels_has_scikit_learns_figures_of_all_clients_predictions(
    masked, tmp_path, monkeypatch, capsys
):
    from sklearn.metrics import f1_score, roc_auc_score

    met: list[tuple[np.ndarray, np.ndarray]] = []
    of_labels = RunMetrics.of_labels

    def spy(self: RunMetrics, logits: np.ndarray, labels: np.ndarray) -> object:
        met.append((logits, labels))
        return of_labels(self, logits, labels)

    def hear(event: plait.Event) -> None:
        if isinstance(event, Evaluated) and not event.round:
            met.clear()

    monkeypatch.setattr(RunMetrics, "of_labels", spy)
    drawn, words = np.random.default_rng(0), ("red", "green", "blue", "one", "two", "three", "sun", "rain", "wind")
    rows = [
        {"text": " ".join(drawn.choice(words, 12)) + f" {words[3 * kind]}" * 6, "label": "abc"[kind]}
        for kind in drawn.integers(0, 3, 180)
    ]
    run = plait.simulate(
        rows, base="tiny", clients=3, partition="iid", rounds=1, local_steps=4, seq_len=32, select="last",
        personalize=0, eval_metrics="macro_f1,auroc,confusion", secure_aggregation=masked, out=tmp_path / "run",
        callbacks=[hear], dtype="float32",
    )  # fmt: skip
    logits, labels = (np.concatenate(part) for part in zip(*met, strict=True))
    raw = np.exp(logits - logits.max(1, keepdims=True))
    summary = json.loads((run.path / "summary.json").read_text())["metrics"]
    macro = f1_score(labels, logits.argmax(1), average="macro")
    auroc = roc_auc_score(labels, raw / raw.sum(1, keepdims=True), multi_class="ovr")
    assert summary["macro_f1"]["final"] == pytest.approx(macro, abs=1e-12)
    assert summary["auroc"]["final"] == pytest.approx(auroc, abs=1e-3)
    assert np.sum(summary["confusion"]) == len(labels)
    shown = capsys.readouterr().err
    assert f"macro_f1 {macro:.4f}" in shown
    assert f"auroc {summary['auroc']['final']:.4f}" in shown
    if not masked:
        shared = run.losses[run.losses["round"] == 1]
        assert set(shared["macro_f1"]) == {*summary["macro_f1"]["by_client"].values()}
