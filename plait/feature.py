"""Features: what plait can do besides the core's federated rounds, found without being named there.

A feature is a folder of `plait/features/` that declares itself as one `Feature`, its `FEATURE`. A declaration imports
only the core: it names all else as ``module:attribute``, imported when first needed. `plait.known_features` finds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from plait.places import at
from plait.plugins import Kind

if TYPE_CHECKING:
    from plait.settings.table import Table


@dataclass(frozen=True, kw_only=True, eq=False)
class Feature:
    """What a feature adds, and where it is. A place is ``module:attribute``.

    Attributes:
        name: of its folder, or of its entry point.
        help: what it is for, in a line.
        settings: place of its table, which has the feature's name in TOML, or that of one which it shares.
        objectives: what clients learn, by name, ``MODULE:CLASS`` for those of a user's own: the place of a function
            from the text of ``--objective`` to a `plait.objective.Objective`.
        usual_objectives: which of them records of a kind are for.
        contracts: what is tried of parts by kind: place of the checks, and of a function from a name to what they try.
        verbs: of the command line, by name: the place of each one's function. ``VERB --OPTION`` is what a verb of the
            core does with an option that it has not itself.
        names: of ``import plait``, and their places.
        events: of the ledger by kind: the place of each one's class.
        sections: of the report: places of functions from a run's view to a table.
        figures: place of a function from a run's view to further keys of its summary.
        plots: of the report by name: the kind of event that each is drawn from, the place of a function from a view and
            a theme to its figure, and what it shows in words.
        shows: place of such a function, whose table a run's end and the report's first screen show.
        messages: fields of its tasks in messages.proto's Task, and places of what reads them (`plait.wire.messages`).
        replies: the same of the answers to them, in Reply.
        limits: of a client's `plait.policy.Policy`, and places of functions from policy and settings that refuse a run.
        proposes: place of a function from a `plait.policy.Proposed` run to what its operator is told of the feature,
            as `Words`; asked of every run.
        spent: place of a function from the journal of a client's data, and the account of a run that does not count, to
            what runs have cost the data in this federation.
        plans: place of a function from a `Settled` run, numbers of its update, parameters and records of a client to a
            `plait.report.estimate.Planned`.
        verifies: place of a function from a ledger's events to what `plait verify` says of it, or to None; refuses one
            that is not as it must be.
        card: place of a function from the feature's card in a run so far, at first None, and an event to the card after
            it (`plait.rounds.card`).
        live_page: place of a pair: what checks the address of a page, and what serves it while a run goes on.
        node: place of a function from a resident node's settings and what opens a run there to what opens it instead.
    """

    name: str
    help: str
    settings: str = ""
    objectives: Mapping[str, str] = field(default_factory=dict[str, str])
    usual_objectives: Mapping[str, str] = field(default_factory=dict[str, str])
    contracts: Mapping[Kind, str] = field(default_factory=dict[Kind, str])
    verbs: Mapping[str, str] = field(default_factory=dict[str, str])
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    events: Mapping[str, str] = field(default_factory=dict[str, str])
    sections: Sequence[str] = ()
    figures: str = ""
    plots: Mapping[str, tuple[str, str, str]] = field(default_factory=dict[str, tuple[str, str, str]])
    shows: str = ""
    messages: Mapping[str, str] = field(default_factory=dict[str, str])
    replies: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: Mapping[str, str] = field(default_factory=dict[str, str])
    proposes: str = ""
    spent: str = ""
    plans: str = ""
    verifies: str = ""
    card: str = ""
    live_page: str = ""
    node: str = ""

    @property
    def table(self) -> type[Table] | None:
        """Its settings, which are imported here."""
        return at(self.settings) if self.settings else None

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its settings."""
        return tuple(self.table.model_fields) if self.table else ()
