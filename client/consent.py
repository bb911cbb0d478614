"""Whether this node's operator agreed to a run: asked once per configuration, or per masked run, and remembered.

Knows nothing of what is agreed to.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from plait.config import Scalar
from plait.errors import MachineError, PolicyError
from plait.files import make_private_directory, read_if_there, write_atomically

_MOST_KEPT = 256
_WEEK_S = 7 * 24 * 3600.0


def consent_digest(config: Mapping[str, Scalar], base_fingerprint: bytes, authority: bytes) -> str:
    """Digest of the content of the agreement, in hexadecimal.

    Args:
        authority: certificate of the federation's authority; empty without TLS.
    """
    text = json.dumps(dict(config), sort_keys=True).encode()
    parts = (text, base_fingerprint, authority)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()


@dataclass(frozen=True)
class Consents:
    """The configurations that an operator has agreed to.

    Attributes:
        path: the file that stores them, private to its owner.
    """

    path: Path

    @classmethod
    def of(cls, state: Path, name: str) -> Consents:
        """The consents of the node called `name`."""
        return cls(state / f"{name}.consents.json")

    def has(self, digest: str) -> bool:
        """Whether this configuration is among them."""
        return digest in self._read()

    def runs(self, digest: str) -> frozenset[str]:
        """The agreed runs of this configuration."""
        return frozenset(_begun(self._read().get(digest)))

    def was_asked(self, digest: str) -> bool:
        """Whether the operator was shown this configuration and agreed to it."""
        entry = self._read().get(digest)
        return isinstance(entry, dict) and cast("dict[str, object]", entry).get("how") == "asked"

    def begun_since(self, since_s: float) -> int:
        """The number of runs, of all configurations, that were agreed to since then (in seconds since 1970)."""
        return sum(begun >= since_s for entry in self._read().values() for begun in _begun(entry).values())

    def add(self, digest: str, run: str, how: str) -> None:
        """Store this configuration and one run of it.

        Args:
            how: the form of consent: ``asked``, ``yes`` or ``policy``.

        Raises:
            MachineError: the disk is full or read-only.
        """
        before, now = self._read(), round(time.time())
        entry = before.pop(digest, None)
        runs = {**_begun(entry), run: now}
        entry = entry or {"how": how, "time": now}
        kept = {**before, digest: {**cast("dict[str, object]", entry), "runs": runs}}
        newest = dict(list(kept.items())[-_MOST_KEPT:])
        try:
            make_private_directory(self.path.parent)
        except OSError as error:
            raise MachineError(f"cannot make '{self.path.parent}': {error.strerror or error}") from error
        write_atomically(self.path, json.dumps(newest, indent=1).encode(), mode=0o600)

    def _read(self) -> dict[str, object]:
        data = read_if_there(self.path)
        try:
            kept = cast("object", json.loads(data)) if data else {}
        except ValueError:
            kept = {}  # damaged: the operator is asked again
        return cast("dict[str, object]", kept) if isinstance(kept, dict) else {}


def _begun(entry: object) -> dict[str, float]:
    """The runs of one configuration and when they were agreed to."""
    runs = cast("Mapping[str, object]", entry).get("runs") if isinstance(entry, dict) else None
    if not isinstance(runs, dict):
        return {}
    times = cast("dict[str, object]", runs)
    return {run: float(when) if isinstance(when, int | float) else 0.0 for run, when in times.items()}


def agree(
    digest: str,
    run: str,
    consents: Consents,
    *,
    most_runs: int,
    most_a_week: int = 0,
    each_run: bool = False,
    yes: bool,
    by_policy: bool,
    ask: Callable[[], bool] | None,
) -> str:
    """Continue only with the operator's consent.

    Args:
        most_runs: limit on runs of one configuration; each reveals more.
        most_a_week: limit on runs of any configuration within seven days; 0 for none.
        each_run: whether each run of a configuration needs its own consent, as with masks.
        by_policy: whether a run within the policy counts as agreed if there is no terminal to ask on.
        ask: asks the operator; None without a terminal.

    Returns:
        The form of consent: ``before``, ``yes``, ``asked`` or ``policy``.

    Raises:
        PolicyError: there is no consent, or too many runs already.
    """
    runs = consents.runs(digest)
    if run in runs:
        return "before"
    if len(runs) >= most_runs:
        raise PolicyError(
            f"the server began {len(runs) + 1} runs of one configuration, but max-rounds of this client's policy "
            f"allows the rounds of {most_runs}; to take part, raise it in the file given with --policy"
        )
    if most_a_week and consents.begun_since(time.time() - _WEEK_S) >= most_a_week:
        raise PolicyError(
            f"this client began {most_a_week} runs within seven days, but max-runs-per-week of its policy allows "
            f"{most_a_week}; to take part, raise it in the file given with --policy"
        )
    how = "before" if consents.has(digest) and not each_run else _consent(yes=yes, by_policy=by_policy, ask=ask)
    consents.add(digest, run, how)
    return how


def _consent(*, yes: bool, by_policy: bool, ask: Callable[[], bool] | None) -> str:
    if yes:
        return "yes"
    if ask is not None:
        if not ask():
            raise PolicyError("the operator of this client did not consent to the run")
        return "asked"
    if by_policy:
        return "policy"
    raise PolicyError(
        "this client's policy asks for consent, and there is no terminal to ask on; run `plait client … --yes`, or "
        "answer once on a terminal"
    )
