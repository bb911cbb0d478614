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
        welcomed: settings that a server sends to its clients, because what they do depends on them; the core's too.
        shown: those that ordinary help shows.
        parts: settings that name parts of the user's own, separated by commas, and their kind.
        leads_out: settings that name a place outside the run's directory, and their values that name none.
        objectives: what clients learn, by name, ``MODULE:CLASS`` for those of a user's own: the place of a function
            from the text of ``--objective`` to a `plait.objective.Objective`.
        usual_objectives: which of them records of a kind are for.
        spreading: place of how clients are spread over processes (`plait.simulation.simulation.Spreading`).
        contracts: what is tried of such parts: the place of the checks, and of a function from a name to what they try.
        verbs: of the command line, by name: the place of each one's function. ``VERB --OPTION`` is what a verb of the
            core does with an option that it has not itself.
        names: of ``import plait``, and their places.
        events: of the ledger by kind: the place of each one's class.
        sections: of the report: places of functions from a run's view to a table.
        figures: place of a function from a run's view to further keys of its summary.
        plots: of the report by name: the kind of event that each is drawn from, the place of a function from a view and
            a theme to its figure, and what it shows in words.
        shows: place of such a function, whose table a run's end and the report's first screen show.
        ending: place of a function that takes a finished simulated run (its `Run`, data, directory, and whether to be
            quiet) before its report is written. It is called if the run asks for the feature, and for every feature of
            plait's own where the run is not quiet.
        afterwards: place of a function from the view of a run that has ended to what may come next, and its command,
            with RUN for the run's directory; None if nothing does.
        starts: place of a function from a resolved run that asks for it to the `StartingPoint` of that run.
        settles: place of a function from a run's settings to those that it fills in, by name.
        plan: place of a function from a run's plan and settings to the plan that it has with this feature.
        simulated: place of a function from a simulation and a run's stop to the channel of all its clients, in place of
            the one on which all are alike and there at once.
        tasks: place of a function from settings to those of every task that follow from them, by name
            (`plait.wire.settings`).
        way: place of a function from a run's way, settings and plan to the way that it has with this feature.
        client_way: place of a function from a client's way, settings and `Speaker` to the way that it has with it.
        together: place of a function from clients of a round to the fewest whose sum the server may see.
        links: place of a function from a run's `Links`, settings and parameters to those that it has with this feature.
        opens: place of a function from settings and an `Opening` to the event of a new run that follows `run_started`,
            or to None; refuses to go on with a run that has begun otherwise.
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
        screen: place of a function from settings and the bytes of an update to what of an event ledgers have; or to
            None for all of it.
        beside: place of a function from settings, run directory and whether to be quiet to a context manager, within
            which the run goes on.
        live_page: place of a pair: what checks the address of a page, and what serves it while a run goes on.
        check: place of a function that refuses settings before a run begins; it is told whether clients are simulated.
        shares: place of a function from settings and what loads data as settings say to the data of simulated clients.
        node: place of a function from a resident node's settings and what opens a run there to what opens it instead.
    """

    name: str
    help: str
    settings: str = ""
    welcomed: Sequence[str] = ()
    shown: Sequence[str] = ()
    parts: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    leads_out: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    objectives: Mapping[str, str] = field(default_factory=dict[str, str])
    usual_objectives: Mapping[str, str] = field(default_factory=dict[str, str])
    spreading: str = ""
    contracts: Mapping[Kind, str] = field(default_factory=dict[Kind, str])
    verbs: Mapping[str, str] = field(default_factory=dict[str, str])
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    events: Mapping[str, str] = field(default_factory=dict[str, str])
    sections: Sequence[str] = ()
    figures: str = ""
    plots: Mapping[str, tuple[str, str, str]] = field(default_factory=dict[str, tuple[str, str, str]])
    shows: str = ""
    ending: str = ""
    afterwards: str = ""
    starts: str = ""
    settles: str = ""
    plan: str = ""
    simulated: str = ""
    tasks: str = ""
    way: str = ""
    client_way: str = ""
    together: str = ""
    links: str = ""
    opens: str = ""
    screen: str = ""
    messages: Mapping[str, str] = field(default_factory=dict[str, str])
    replies: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: Mapping[str, str] = field(default_factory=dict[str, str])
    proposes: str = ""
    spent: str = ""
    plans: str = ""
    verifies: str = ""
    card: str = ""
    beside: str = ""
    live_page: str = ""
    check: str = ""
    shares: str = ""
    node: str = ""

    @property
    def table(self) -> type[Table] | None:
        """Its settings, which are imported here."""
        return at(self.settings) if self.settings else None

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its settings."""
        return tuple(self.table.model_fields) if self.table else ()
