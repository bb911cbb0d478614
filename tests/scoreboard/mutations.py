"""The defences of each row, removed one at a time: the row, which holds with all of them, must then fail.

    python tests/scoreboard/mutations.py              all of them, in their rows' quick form
    python tests/scoreboard/mutations.py killed,door  those of some rows, or with these names
    python tests/scoreboard/mutations.py --of-day     the part that is due today: all of them within two weeks

A mutation changes plait only inside the row's own processes (`take_out_named`); nothing on disk is touched.
"""

import importlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from inspect import Parameter, isclass, isfunction, signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

NAMED = "PLAIT_SCOREBOARD_WITHOUT"
OURS = {"plait", "client", "server", "scoreboard"}
PARTS = 14
"""Days within which CI runs all of them."""


@dataclass(frozen=True)
class Mutation:
    """A defence that can be taken out, and the row that must fail then."""

    row: str
    take_out: Callable[[], None]


def module(name: str):
    """Imported late, so that nothing is loaded where nothing is taken out."""
    return importlib.import_module(name)


def put(place: str, value: object) -> None:
    """Replace ``module:name`` or ``module:Class.name``; AttributeError, TypeError where that would take nothing out.

    Where a function or class is defined, it is replaced for all modules that have imported it by name; elsewhere there
    alone.
    """
    owner, last, before = _found(place)
    where, _, name = place.partition(":")
    if isfunction(before) and isfunction(value):
        _check_calls(before, value, place)
    setattr(owner, last, value)
    if "." in name or not (isfunction(before) or isclass(before)) or before.__module__ != where:
        return
    for imported in list(sys.modules.values()):
        ours = isinstance(imported, ModuleType) and imported.__name__.partition(".")[0] in OURS
        if ours and vars(imported).get(last) is before:
            setattr(imported, last, value)


def _found(place: str) -> tuple[object, str, object]:
    """Whose attribute it is, the attribute's name, and what it is now."""
    where, _, name = place.partition(":")
    *path, last = name.split(".")
    owner = reduce(getattr, path, module(where))
    return owner, last, getattr(owner, last)


def _check_calls(before: Callable[..., object], after: Callable[..., object], place: str) -> None:
    for least in (False, True):
        asked = [each for each in signature(before).parameters.values() if not least or each.default is Parameter.empty]
        ordered = [each for each in asked if each.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
        named = {each.name: None for each in asked if each.kind is Parameter.KEYWORD_ONLY}
        try:
            signature(after).bind(*ordered, **named)
        except TypeError as error:
            raise TypeError(f"what takes the place of {place}: {error}") from error


def around(*places: str, by: Callable[[Any], object]) -> Callable[[], None]:
    """What is made, by `by`, of what is there."""

    def take_out() -> None:
        for place in places:
            put(place, by(_found(place)[2]))

    return take_out


def instead(place: str, value: object) -> Callable[[], None]:
    return around(place, by=lambda _: value)


def nothing(*places: str, result: object = None) -> Callable[[], None]:
    """Functions that do nothing and give this."""
    return around(*places, by=lambda _: lambda *given, **named: result)


def same(*places: str) -> Callable[[], None]:
    """Functions that give back what they are given first."""
    return around(*places, by=lambda _: lambda given, *more, **named: given)


def given(place: str, **named: object) -> Callable[[], None]:
    """A function with these arguments, whatever its callers pass."""
    return around(place, by=lambda real: lambda *passed, **more: real(*passed, **{**more, **named}))


def lenient(*fields: str) -> Callable[[], None]:
    """Take what an update says of itself in these fields for what was expected."""

    def by(strict):
        def open_update(data, expected):
            from plait.errors import PeerError
            from plait.wire.envelope import read_header

            try:
                header = read_header(data, max_bytes=len(data))
            except PeerError:
                return strict(data, expected)
            said = {field: b"" if field == "public_key" else getattr(header, field) for field in fields}
            return strict(data, replace(expected, **said))

        return open_update

    return around("plait.rounds.validate:open_update", by=by)


def _memory_in_ram() -> None:
    kept: dict[tuple[str, str], bytes] = {}
    put("plait.rounds.memory:DiskMemory.load", lambda self, key: kept.get((str(self.folder), key)))
    put("plait.rounds.memory:DiskMemory.save", lambda self, key, data: kept.__setitem__((str(self.folder), key), data))


def _without_options(*names: str, more: Sequence[tuple[str, int]] = ()) -> Callable[[], None]:
    places = [f"plait.transport.credentials:{which}" for which in ("SERVER_OPTIONS", "CHANNEL_OPTIONS")]
    return around(*places, by=lambda options: (*(each for each in options if each[0] not in names), *more))


def _half_open_cell() -> None:
    from scoreboard.network import Fault

    # gRPC's own default is a minute, and some pings it sends by itself.
    own = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    _without_options(*own, more=[("grpc.http2.ping_timeout_ms", 600_000)])()
    put("server.service:SERVER_OPTIONS", module("plait.transport.credentials").SERVER_OPTIONS)
    put("scoreboard.network:QUICK", {(Fault.HALF_OPEN, "task stream")})
    put("scoreboard.network:PATIENCE_S", 80)  # noticed, it takes 40 s and a few


def _one_attempt(attend):
    def once(self):
        attend(self)

    return once


def _uploads_give_up() -> None:
    around("client.worker:AnswerUploads._try", by=_tried_once)()
    # A server that gave the task out again would have it done anew.

    def make_ready(self, session, fitness):
        with self._changed:
            session.fitness = fitness
            self._note()

    put("server.tasks:TaskRegistry.make_ready", make_ready)


def _tried_once(call):
    """A call of `client.session` that fails for good."""
    import grpc

    retrying = module("client.session")

    def once(*arguments):
        try:
            return call(*arguments)
        except (grpc.RpcError, grpc.FutureCancelledError, retrying.TryAgainError) as error:
            raise retrying.FinalError("it broke off") from error

    return once


def _many_calls() -> None:
    put("server.attendance:_ENTERING_A_NAME", 10**9)
    put("server.guard:_CALLS_A_NAME", 10**9)


def _many_transfers() -> None:
    from contextlib import asynccontextmanager

    _many_calls()
    nothing("server.uploads:Frequency.allows", result=True)()
    transfers = module("server.uploads")

    @asynccontextmanager
    async def turn(self, node):
        async with self._slots:
            yield transfers.Transfer(self._limits)

    class Careless(transfers.Transfer):
        """As slow as it likes."""

        def moved(self, count):
            pass

    transfers.Transfer = Careless
    put("server.uploads:Transfers.turn", turn)


def _any_client_name() -> None:
    same("plait.system.text:check_client_name")()
    put("plait.system.text:_CLIENT", SimpleNamespace(fullmatch=lambda name: True))


def _pip_as_the_directory_has_it() -> None:
    put("plait.data.packages:_pip", lambda: [sys.executable, "-m", "pip"])
    _in_the_directory("plait.data.packages:subprocess")()


def _in_the_directory(place: str) -> Callable[[], None]:
    """Programs start in the directory where this one is."""
    return around(
        place,
        by=lambda real: SimpleNamespace(
            **{**vars(real), "run": lambda command, *, cwd=None, **named: real.run(command, **named)}
        ),
    )


def _trainers_directory_first() -> None:
    class First:
        """A path to which things are added in front."""

        def __contains__(self, place: str) -> bool:
            return place in sys.path

        def __iter__(self) -> Iterator[str]:
            return iter(sys.path)

        def append(self, place: str) -> None:
            sys.path.insert(0, place)

    put("plait.plugin_search:sys", SimpleNamespace(path=First(), modules=sys.modules))


def _links_are_followed() -> None:
    look = module("plait.system.files")._itself_and_below
    put("plait.system.files:_itself_and_below", lambda path, depth: look(path.resolve(), depth))


def _finite() -> None:
    import numpy as np

    class Careless:
        """NumPy, to which all is finite."""

        def __getattr__(self, name: str):
            return (lambda values: np.ones(np.shape(values), bool)) if name == "isfinite" else getattr(np, name)

    for place in ("plait.wire.codecs.plain", "plait.adapters.state"):
        put(f"{place}:np", Careless())


def _clip_at_clients() -> None:
    clip = module("plait.privacy.mechanism")

    def unclipped(values, *, clip_norm, radius, key):
        return clip._rounded(values, radius / clip_norm, key)[0]

    put("plait.privacy.mechanism:clipped_to_grid", unclipped)


def _shuffled(self, stream):
    """Batches of one size, as an epoch in random order has them."""
    import numpy as np

    return np.sort(np.argsort(stream.words(self.records))[: self.batch])


def _length_as_said(*, mean, rms, clients):
    return min(rms, max(1.5 * mean, rms / math.sqrt(clients)))


def _refuses_what_it_cannot_open(deliver):

    def refusing(self, session, sharers, parcels):
        found, unreadable = deliver(self, session, sharers, parcels)
        if unreadable:
            raise module("plait.errors").PeerError("shares cannot be opened")
        return found, ()

    return refusing


def _accused_are_guilty(collecting, accused, shown):
    return frozenset(accused), frozenset(), frozenset()


def _next_to_each_other(count: int, roster: bytes):
    near = [step for step in range(-32, 33) if step] if count > 256 else range(1, count)
    return tuple(tuple(sorted((at + step) % count for step in near)) for at in range(count))


def _any_configuration(table):
    config = module("plait.config")
    known = {field.alias for field in config.RunConfig.model_fields.values()}
    return config.config_from_table({key: value for key, value in table.items() if key in known}, where="welcome")


def _settings_of_the_file(directory, events=None):
    kept = module("plait.settings.table").read_config_table(directory.config)
    return module("plait.config").config_from_table({**kept, "out": str(directory.path)}, where="")


def _finds_anybodys(self, node, task_id):
    for of_node in self._by_node.values():
        if task_id in of_node:
            return of_node[task_id].state, of_node[task_id]
    return None, None


def _every_adapter(story):
    return {(each["round"], each["adapter"]) for each in story.events if {"round", "adapter"} <= each.keys()}


def _without_optimizer(files):
    return lambda *given: {name: data for name, data in files(*given).items() if name != "optimizer.safetensors"}


def _variance_over(factor: float) -> Callable[[], None]:
    return around(
        "plait.privacy.mechanism:discrete_gaussian",
        by=lambda drawn: lambda variance, bits: drawn(variance / factor, bits),
    )


_HALF_NOISE = around(
    "plait.privacy.mechanism:grid_for", by=lambda real: lambda size, multiplier: real(size, multiplier / 2)
)
_OF_ROWS: dict[str, dict[str, Callable[[], None]]] = {
    "malformed": {
        "finite": _finite,  # NaN and infinity are not looked for
        "figures": nothing("plait.rounds.validate:_check_figures"),  # metrics may be anything finite
        "overflow": nothing("plait.rounds.validate:_check_size"),  # elements may be of any size
        "examples": lenient("examples"),  # an update may count any number of examples
        "own-signature": nothing("plait.rounds.validate:_check_signature"),  # signatures are not checked
        "norm": nothing("plait.rounds.spool:beyond"),  # no norm is bounded
        "card": nothing("plait.rounds.roster:check_description"),  # a client may describe another base and adapter
    },
    "forged": {
        "signature": nothing("plait.rounds.validate:_check_signature"),  # signatures are not checked
        "base": lenient("base_fingerprint"),  # an update may be of any base
        "round": lenient("round"),  # an update may be of any round
        "client": lenient("client", "public_key"),  # an update may be of any client, by any key
        "session": instead("server.tasks:TaskRegistry.find", _finds_anybodys),  # any session may answer any node's task
    },
    "killed": {
        "residual": _memory_in_ram,  # clients keep what they owe in memory alone
        "optimizer-memory": around("plait.rounds.run_state:_files", by=_without_optimizer),
        "recorded": around("plait.ledger.run_view:RunView.after",
                   by=lambda after: lambda events: replace(after(events), updates={})),
    },
    "clients_killed": {
        "absent": nothing("server.tasks:TaskRegistry.give_up_absent", result=()),
    },
    "network": {
        "reconnect": around("client.connection:Connection._attend", by=_one_attempt),  # a node connects once
        "upload-again": _uploads_give_up,  # an upload that breaks is neither tried nor asked for again
        "download-again": around("client.worker:Downloads._receive", by=_tried_once),
        "keepalive": _half_open_cell,  # a connection that is half-open is not noticed
    },
    "straggler": {
        "deadline": around(
            "plait.rounds.dispatch:Dispatch.next_answer", by=lambda wait: lambda self, deadline: wait(self, None)),
    },
    "door": {
        "streams": _without_options("grpc.max_concurrent_streams", "grpc.http2.bdp_probe"),
        "register": instead(
            "plait.trust.register:Register.check", lambda *given: module("plait.trust.register").Verdict.KNOWN),
        "page-token": nothing("plait.page.app:Page._is_token", result=True),  # any token opens the page
        "page-origin": nothing("plait.page.app:_what_is_wrong", result=(0, "")),
    },
    "members": {
        "turns": _many_transfers,  # a node has any number of transfers, as slow as it likes
        "same-body": nothing("server.uploads:Frequency.allows", result=True),  # a body may be fetched again and again
        "places": _many_calls,  # a name has any number of calls, also on their way in
        "certificates": nothing("server.guard:CallGuard._refusal"),  # the register is not asked about certificates
        "room": nothing("server.nodes_channel:_most_connections", result=150),  # there is no room for strangers
        "silence": around("plait.rounds.roster:RunRoster._suffices",
                   by=lambda suffices: lambda self, *given: not self._asked and suffices(self, *given)),
        "questions": instead("plait.rounds.roster:MOST_QUESTIONS", 10**9),
    },
    "canaries": {
        "samples-asked": instead("plait.api.sampling:BUILTINS", ("memory:data",)),
        "columns-counted": given("plait.simulation.partition:histogram", column="said"),
    },
    "names": {
        "page": given("plait.report.html:Environment", autoescape=False),  # names go into pages as they are
        "terminal": same("plait.report.wording:printable", "plait.report.terminal:clean", "plait.report.status:clean"),
        "log": instead("server.monitoring:shown", str),  # names go into the server's log as they are
        "error-line": same("plait.cli.main:escaped"),  # names go into errors as they are
        "file-names": instead("plait.rounds.run_directory:_file_name", lambda client: f"{client}.envelope"),
        "client-names": _any_client_name,  # a kit may have any name
    },
    "planted": {
        "cache-owner": nothing("plait.system.files:_owner", result=""),  # a file is believed whoever owns it (as root)
        "cache-mode": nothing("plait.system.files:_mode", result=""),  # files that others can write are believed
        "cache-links": _links_are_followed,
        "cache-above": nothing("plait.system.files:_above", result=""),  # folders above are not looked at
        "open-folders": instead(
            "plait.system.files:make_private_directory",
            lambda path: path.mkdir(mode=0o777, parents=True, exist_ok=True)),
        "pip-path": _pip_as_the_directory_has_it,  # pip starts in the working directory
        "children-path": lambda: module("plait.cli.main")._ENVIRONMENT.pop("PYTHONSAFEPATH"),
        "trainer-path": _trainers_directory_first,  # a trainer's folder comes first
        "apps-path": nothing("plait.apps:bind_apps"),
        "compiler-folder": _in_the_directory("plait.system.compiler:subprocess"),
        "matplotlibrc": nothing("matplotlib:rcdefaults"),  # plots are drawn as a matplotlibrc says
    },
    "directories": {
        "named-again": nothing("plait.api.received:leads_out", result={}),
        "ledger-settings": instead("plait.rounds.run_directory:recorded_settings", _settings_of_the_file),
        "served-again": instead("plait.api.serving:Serving.named", property(lambda self: {})),
        "base-on-disk": nothing("plait.training.bases:is_on_disk", result=True),
        "config-of-run": nothing("plait.cli.options:_check_received"),
        "links": instead("plait.system.files:leads_elsewhere", lambda directory: ""),
        "pipes": instead("plait.system.files:open_plain", lambda path: path.open("rb")),  # a pipe is opened as a file
        "long-line": instead("plait.ledger.ledger:_MOST_LINE_BYTES", 1 << 40),  # a ledger's line may have any length
        "fetched-names": instead("server.standing_verbs:_place", lambda path: Path(path)),
        "fetched-size": given("server.standing_verbs:_received", max_gb=math.inf),  # a fetched run may have any size
    },
    "hostile": {
        "terms": nothing("plait.rounds.terms:AgreedTerms.check_task", "plait.rounds.terms:AgreedTerms.check_header"),
        "settings": nothing("plait.rounds.terms:AgreedTerms._check_settings"),
        "policy": nothing("plait.policy:Policy.check_run", "plait.run:_check_reach",
            "plait.policy:Policy.check_download"),
        "allow-list": instead("plait.adapters.peft_settings:checked_settings",
            lambda settings, *, what: dict(settings)),
        "adapter-size": nothing("plait.training.peft_adapter:check_size"),  # an adapter may be of any size
        "welcome-keys": instead("client.base:config_from_welcome", _any_configuration),
        "trainer": nothing("client.base:check_trainer"),  # a server names the trainer that is imported
        "consent": nothing("client.consent:agree", result="yes"),  # no consent is asked for
    },
    "hostile_node": {
        "queue": instead("client.worker:MOST_WAITING", 10**9),  # any number of tasks waits at a client
    },
    "privacy": {
        "clip-decoded": _clip_at_clients,  # clients clip before their error feedback, the server does not
        "half-noise": _HALF_NOISE,
        "noise-reused": instead(
            "plait.privacy.noise:RunKey.for_round",
            lambda self, number, digest: module("plait.privacy.noise").derived(self.secret, str(number).encode())),
        "half-share": _variance_over(4),  # half of a client's share of the noise
        "share-of-all": _variance_over(5 / 4),  # shares are for all clients, not for those that are guaranteed
        "share-reused": instead("plait.secagg.client:MaskingClient.noise_key", lambda self, session, numbers: numbers),
        "share-clip": instead(
            "plait.privacy.mechanism:clipped_to_grid",
            lambda values, *, clip_norm, radius, key: module("numpy").rint(values * (radius / clip_norm))),
        "median": around("plait.settle:_checks",
            by=lambda checks: lambda *given: {**checks(*given), "norm_bound": "10"}),
        "mask-digest": around("plait.secagg.client:pair_key", "plait.secagg.client:self_key",
                   by=lambda key: lambda *given: key(*given[:-1], b"")),
        "mask-seed": around("plait.trust.masks:derived", "plait.secagg.client:derived",
                   by=lambda key: lambda *given: key(*given)[:4] + bytes(28)),
        "second-unmasking": instead("plait.wire.masked_roster:MaskedAttempt.series",
            property(lambda self: self.attempt.hex())),
        "survivors": nothing("plait.secagg.client:is_signed", result=True),  # a list of survivors needs no signatures
        "vouch": nothing("plait.wire.masked_roster:Offer.check"),  # a key needs no voucher
    },
    "private_records": {
        "record-clip": _clip_at_clients,  # gradients of records are not clipped
        "record-noise": _HALF_NOISE,
        "record-resumed": instead(
            "plait.privacy.client:derived", lambda secret, _: module("plait.privacy.noise").derived(secret, b"round")),
        "record-batches": instead("plait.privacy.client:RecordPrivacy.sample", _shuffled),
        "record-budget": nothing("plait.privacy.client:RecordPrivacy.epsilon_after", result=0.0),
    },
    "one_member": {
        "masked-length": instead("plait.secagg.rounds:length_expected", _length_as_said),
        "masked-growth": instead("plait.secagg.rounds:_GROWTH", 1e30),
        "masked-room": instead("plait.secagg.rounds:_MOST_ROOM", 1e30),  # a grid may be as coarse as it likes
        "masked-ring": nothing("plait.secagg.rounds:check_sum"),  # a sum that has left its ring is one
        "complaint": around("plait.secagg.client:MaskingClient.deliver", by=_refuses_what_it_cannot_open),
        "verdict": instead("plait.secagg.stages:judge", _accused_are_guilty),  # an accused client is to blame
        "share-keys": nothing("plait.secagg.server:can_be_opened", result=True),
        "share-digests": nothing("plait.secagg.server:SealedSum.check_shares"),
        "recalled": nothing("plait.secagg.stages:MaskedSums.recall"),  # a server that goes on forgets who is left out
        "lost-sum": lambda: put("plait.secagg.stages:LostError", module("plait.errors").ConfigError),
        "masked-losses": lambda: put("plait.secagg.collector:PeerError", module("plait.errors").ConfigError),
        "groups": instead("plait.secagg.stages:distances", lambda means: (0.0,) * len(means)),  # no group is left out
        "stage-deadline": nothing("plait.rounds.channel:Patience.most_stage_s", result=900.0),
    },
    "liar": {
        "guard": nothing("plait.ledger.watch:Guard.publishes", result=True),  # what is evaluated is published
        "guard-median": instead("plait.ledger.watch:_rise", lambda change: change.mean),
        "guard-masked": nothing("plait.ledger.watch:_of_sums", result=0.0),  # masked losses decide nothing
        "guard-base": instead("plait.ledger.watch:_reported",
            lambda evaluated: module("plait.ledger.watch").Change(0.0, 0.0)),
    },
    "sizes": {
        "own-holders": nothing("plait.secagg.client:MaskingClient._check_neighbours"),
        "masked-with": instead("plait.wire.masked_roster:Roster.masked_text", lambda self, sharers: self.digest),
        "one-key": instead("plait.secagg.client:MaskingClient.show", lambda self, session, receiver: (self, bytes(32))),
        "one-list": instead("plait.guarantees:threshold_of", lambda count: -(-count // 2)),
        "cycles": instead("plait.wire.masked_roster:neighbours", _next_to_each_other),
        "a-tenth": instead("plait.guarantees:colluding",
                    lambda clients: clients // 8 if clients > 256 else (clients - 1) // 3),
    },
    "fuzz": {
        "raw-parse": instead("plait.wire.canonical:parse",
            lambda kind, data, what, *, max_bytes: kind.FromString(data)),
    },
    "soak": {
        "history": instead("plait.rounds.validate:HISTORY", 10**9),  # every round's norms are remembered
        "files": instead("plait.system.files:fsync_directory", lambda path: os.open(path, os.O_RDONLY)),
        "pruning": instead("plait.rounds.run_state:CHECKPOINTS_KEPT", 10**9),  # every checkpoint is kept
    },
    "evidence": {
        "signers-role": nothing("scoreboard.evidence:verify.check_role"),  # who signs as the server
        "agreed-settings": instead("scoreboard.evidence:verify.Story._agreed",
            lambda story, *_: set(story.first["config"])),
        "own-record": instead("scoreboard.evidence:verify.Story._matched",
            lambda story: {each["seq"] for each in story.events}),
        "held-adapters": instead("scoreboard.evidence:verify.Story._held", _every_adapter),
        "told-losses": around("scoreboard.evidence:verify.SAYS", by=lambda says: {
                **says, "evaluated": lambda _, line: set(module("scoreboard.evidence").verify.names_in(line))}),
        "no-escapes": same("scoreboard.evidence:verify.shown"),  # names that are shown plainly
        "bomb": instead("scoreboard.evidence:verify.MOST_RATIO", 1 << 20),  # the size of what is compressed
    },
    "sums": {
        "nested": instead("plait.secagg.journal:are_apart", lambda one, other, least: not 0 < len(one ^ other) < least),
        "half": instead("plait.secagg.journal:are_apart", lambda one, other, least: (
                one == other or one.isdisjoint(other)
                or (len(one ^ other) >= least and (one < other or other < one)))),
        "all-losses": instead("plait.secagg.journal:SumJournal._same", lambda self, purpose, received: {
                each.clients for each in self._of(purpose) if each.received == received.hex()}),
        "changes": nothing("plait.secagg.journal:changes_in", result=Counter[str]()),
        "seats": given("plait.secagg.stages:seated", before={}),  # groups are dealt anew in each round
    },
    "server_alone": {
        "client-secret": instead("plait.rounds.data_journal:ClientSecret.of",
                    classmethod(lambda cls, memory: cls.simulated(0, "anybody"))),
        "sums-apart": nothing("plait.secagg.journal:are_apart", result=True),
        "closed-rounds": nothing("plait.secagg.journal:SumJournal.check_open"),
        "few-in-a-sum": nothing("plait.secagg.journal:SumJournal.check_sum"),  # a sum may be of any number of clients
        "older-state": nothing("plait.rounds.data_journal:DataJournal._check"),
        "total-epsilon": nothing("plait.privacy.client:SpentJournal.check"),  # epsilon does not add up over runs
        "masked-consent": given("client.consent:agree", each_run=False),
        "masked-counts": around("plait.secagg.masking:evaluation_figures",
                   by=lambda figures: lambda shared, own: {**figures(shared, own), "moved": shared.tokens}),
        "masked-refusals": instead("plait.wire.settings:Settings.counts_stay", property(lambda self: False)),
    },
}  # fmt: skip
MUTATIONS = {
    name: Mutation(row, take_out) for row, mutations in _OF_ROWS.items() for name, take_out in mutations.items()
}


def take_out_named() -> None:
    """Take out what the environment names, if anything."""
    name = os.environ.get(NAMED)
    if name:
        MUTATIONS[name].take_out()


def main() -> int:
    """Run each row without each of its defences; the exit code is 0 if all fail as they should."""
    wanted = sys.argv[1].split(",") if len(sys.argv) > 1 else []
    chosen = {
        name: mutation
        for number, (name, mutation) in enumerate(MUTATIONS.items())
        if not wanted
        or mutation.row in wanted
        or name in wanted
        or (wanted == ["--of-day"] and number % PARTS == datetime.now(UTC).toordinal() % PARTS)
    }
    print("| Without | Row | Says | Fails |\n|---|---|---|---|")
    wrong = 0
    whole: dict[str, str] = {}
    for name, mutation in chosen.items():
        started = time.monotonic()
        if mutation.row not in whole:
            whole[mutation.row], _ = _said_of(mutation.row)
        verdict, why = judged(*_said_of(mutation.row, "--without", name), whole=whole[mutation.row])
        wrong += verdict != "yes"
        print(f"| {name} | {mutation.row} | {why} | {verdict} |", flush=True)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return 1 if wrong else 0


def _said_of(row: str, *more: str) -> tuple[str, str]:
    """The JSON of a row in its quick form, empty if there is none, and what the process said besides."""
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--quick", "--rows", row, *more]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return next((each for each in done.stdout.splitlines() if each.startswith("{")), ""), done.stderr


def judged(line: str, errors: str, *, whole: str) -> tuple[str, str]:
    """Whether a row has failed for lack of the defence, and what it said.

    Given are its JSON (empty if the defence was not found where it was to be taken out), what the process said besides,
    and its JSON with all its defences.
    """
    said, undisturbed = json.loads(line or "{}"), json.loads(whole or "{}")
    why = (said.get("failures") or ["nothing"])[0].replace("|", "/").replace("\n", " ")[:140]
    if not undisturbed.get("ok"):
        return "BROKEN", f"with all its defences the row says: {undisturbed.get('failures', 'nothing')}"[:140]
    if not line:
        return "BROKEN", (errors.strip().splitlines() or ["nothing was said"])[-1].replace("|", "/")[:140]
    if said["ok"]:
        return "NO", "the row holds as if nothing were missing"
    if why.startswith(
        (
            "AttributeError",
            "ImportError",
            "ModuleNotFoundError",
            "NameError",
            "TypeError",
            "RuntimeError: the tests did",
        )
    ):
        return "BROKEN", why
    # The last frame of what nobody caught is the mutation's own.
    if re.search(r'mutations\.py", line \d+, in .*\n(?: {4}.*\n)*(?! )', errors):
        return "BROKEN", errors.strip().splitlines()[-1].replace("|", "/")[:140]
    return "yes", why


if __name__ == "__main__":
    sys.exit(main())
