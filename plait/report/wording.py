"""Numbers, names and sentences for people: units, ratios, durations, printable text, learning rates, truncation."""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean, median

from pydantic import JsonValue

from plait.ledger.events import DescribedClient, Score, UpdateReceived
from plait.system.text import printable

NOTHING = "\N{EM DASH}"
_MINUS = "\N{MINUS SIGN}"
_TIMES = "\N{MULTIPLICATION SIGN}"


def clean(text: str, *, limit: int = 200) -> str:
    """`text` as one printable line with single spaces, cut at `limit` characters."""
    return printable(" ".join(printable(text).split()), limit=limit)


def bytes_text(count: float) -> str:
    """Three digits and a decimal unit: ``12.3 MB`` is 12.3 million bytes."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{_three_digits(count)} {unit}"
        count /= 1000
    return f"{_three_digits(count)} PB"


def round_bytes_text(count: float) -> str:
    """The same without trailing zeros, for a round number on an axis: ``80 MB``."""
    number, _, unit = bytes_text(count).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def count_text(count: float | None) -> str:
    """A whole number with separators: ``2,442,240``."""
    return NOTHING if count is None else f"{count:,.0f}"


def short_count_text(count: float) -> str:
    """Three digits and a word: ``2.44 million``."""
    for limit, word in ((1e9, "billion"), (1e6, "million")):
        if count >= limit:
            return f"{_three_digits(count / limit)} {word}"
    return count_text(count)


def ratio_text(ratio: float | None) -> str:
    """A ratio with a multiplication sign: ``3,521x``, ``12.4x``, ``0.98x``."""
    return NOTHING if ratio is None else f"{_three_digits(ratio)}{_TIMES}"


def times_text(ratio: float) -> str:
    """How much something takes, in two digits: ``3,500 times as much``, ``1.3 times as much``, ``45 % less``."""
    if ratio < 1:
        return f"{100 * (1 - ratio):.0f} % less"
    rounded = float(f"{ratio:.2g}")
    return f"{f'{rounded:,.0f}' if rounded >= 10 else f'{rounded:g}'} times as much"


def loss_text(loss: float | None) -> str:
    """A loss with three decimals."""
    return NOTHING if loss is None else f"{loss:.3f}"


def change_text(change: float | None) -> str:
    """A change with its sign: ``-0.342``, with a real minus sign."""
    return NOTHING if change is None else f"{change:+.3f}".replace("-", _MINUS)


def within_text(text: str, margin: float | None) -> str:
    """A loss, or a change of one, with half of its 95 % interval: ``2.476 ± 0.061``."""
    return text if margin is None or text == NOTHING else f"{text} ± {margin:.3f}"


def moved_text(after: Score | None, before: Score | None) -> str:
    """The change of a loss, with half of its 95 % interval if known."""
    if after is None or before is None:
        return NOTHING
    return within_text(change_text(after.change_since(before)), after.change_margin)


def perplexity_text(loss: float | None) -> str:
    """The exponential of a loss in nats per token."""
    if loss is None:
        return NOTHING
    return _three_digits(math.exp(loss)) if loss < math.log(1e9) else "over 10⁹"


def percent_text(share: float | None) -> str:
    """A share of 1 as a percentage: ``73.8 %``."""
    return NOTHING if share is None else f"{100 * share:.1f} %".replace("-", _MINUS)


def reward_text(margin: float | None) -> str:
    """The mean lead of a chosen reply's reward: ``+0.312``."""
    return NOTHING if margin is None else f"{round(margin, 3) + 0.0:+.3f}"


def minus_text(loss: float | None) -> str:
    """What a loss is minus of, such as a mean reward: ``0.312``."""
    return loss_text(None if loss is None else 0.0 - loss)


def metric_texts(names: Iterable[str], metrics: Mapping[str, float | None] | None) -> dict[str, str]:
    """Figures by name, but for those that a report has anyway."""
    shown = {name: (metrics or {}).get(name) for name in names if name not in ("accuracy", "loss", "perplexity")}
    return {name: NOTHING if figure is None else f"{figure:.4f}" for name, figure in shown.items()}


def accuracy_text(accuracy: float | None, interval: tuple[float, float] | None) -> str:
    """An accuracy with its 95 % interval: ``93.8 % (71.7-98.9)``, with a dash between the ends."""
    if accuracy is None or interval is None:
        return percent_text(accuracy)
    low, high = interval
    return f"{percent_text(accuracy)} ({100 * low:.1f}\N{EN DASH}{100 * high:.1f})"


def duration_text(seconds: float | None) -> str:
    """A duration in its two largest units: ``4 min 12 s``."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{seconds / 86400:.1f} days"


def plural(count: int, noun: str) -> str:
    """``1 client``, ``8 clients``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _three_digits(value: float) -> str:
    return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


# Fraction of shortened steps above which a learning rate is called too high.
_MOST_SHORTENED = 0.5


def given_rate(config: Mapping[str, JsonValue]) -> float | None:
    """The learning rate that a run gives its clients; 0 if each has its own, None if the run does not record it.

    One that follows slopes is each client's own wherever it begins: with LoRA-XS at a rate that follows from the rank.
    """
    rate = config.get("learning-rate")
    if not isinstance(rate, (int, float)):
        return None
    return 0.0 if config.get("lr-schedule") == "slope" else float(rate)


def found_rates(updates: Iterable[UpdateReceived]) -> tuple[str, str]:
    """The median of the updates' learning rates, and from where to where they reach; empty if there are none."""
    rates = [update.learning_rate for update in updates if update.learning_rate is not None]
    if not rates:
        return "", ""
    least, most = f"{min(rates):.2g}", f"{max(rates):.2g}"
    return f"{median(rates):.2g}", "" if least == most else f"{least} to {most}"


def rates_sentence(updates: Iterable[UpdateReceived], *, given: float) -> str:
    """What the learning rates were, if clients found them, or that the one given is too high; empty otherwise."""
    updates = tuple(updates)
    if not given:
        rate, spread = found_rates(updates)
        return f"Learning rate found by each client: {rate}{f' ({spread})' if spread else ''}." if rate else ""
    shortened = [update.shortened for update in updates if update.shortened is not None]
    if not shortened or fmean(shortened) <= _MOST_SHORTENED:
        return ""
    return (
        f"A learning rate of {given:g} is too high: {fmean(shortened):.0%} of the local steps predicted a fall of the "
        "loss by more than a quarter, and were shortened. Give a lower --learning-rate, or none: then plait takes the "
        "method's, or each client finds its own."
    )


def truncation_sentence(clients: Iterable[DescribedClient], *, seq_len: object) -> str:
    """How many of the clients' examples are cut or left out; empty if none is."""
    described = tuple(clients)
    truncated = sum(each.cut_examples for each in described)
    left_out = sum(each.left_out_examples for each in described)
    tokens = f"token {seq_len:,}" if isinstance(seq_len, int) else "a sequence's last token"
    sentences: list[str] = []
    if truncated:
        sentences.append(f"{_examples(truncated)} cut after {tokens}.")
    if left_out:
        sentences.append(f"{_examples(left_out)} left out: the answer starts after {tokens}.")
    if sentences:
        sentences.append("Raise --seq-len to keep more.")
    return " ".join(sentences)


def repetition_sentence(clients: Iterable[DescribedClient]) -> str:
    """How many held-out sequences repeat training text; empty if none does."""
    repeated = sum(each.repeated_examples for each in clients)
    if not repeated:
        return ""
    which = f"{repeated:,} held-out sequence{'s repeat' if repeated > 1 else ' repeats'}"
    return f"{which} training text: losses are measured on others, where there are any."


def _examples(count: int) -> str:
    return f"{count:,} example{' is' if count == 1 else 's are'}"
