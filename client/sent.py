"""What left a node: a line for each answer, on disk before it is sent; and the statement that its owner makes of it.

A line records which task was answered and with which adapter, how many bytes came and went, the names of the fields,
the digest of what a signature covers, and the figures that the server got; never text. Where a run has differential
privacy, a statement has neither figures nor sizes, which would reveal more than the ledger does. A run begins with a
line of the settings that were agreed to. Lines are chained by SHA-256 and stay here.
"""

import base64
import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, cast

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from client.consent import Consents, consent_digest
from client.forgotten import Forgotten
from client.settings import NodeSettings, default_state_directory
from client.task import ClientTask, OfferedRun, TaskAnswer, TaskRunner
from plait.api import TURN
from plait.cli.output import print_text
from plait.errors import ConfigError, PeerError
from plait.evidence.envelope import STATEMENT, Signer, enveloped, statement
from plait.ledger.events import DescribedClient
from plait.ledger.ledger import canonical
from plait.report.terminal import status
from plait.rounds.channel import Purpose, round_and_attempt
from plait.rounds.data_journal import extended
from plait.rounds.evaluation import client_losses, mean_loss
from plait.system.files import at_home, read_if_there, write_atomically
from plait.system.text import Json, read_json
from plait.trust.keys import key_digest
from plait.trust.kit import ClientKit, Endorsement
from plait.wire.envelope import SIGNED_DOMAIN, Header, read_envelope, split_frame
from plait.wire.messages import ClientCard, Evaluation, Refusal, Reply, UpdateReply, broadcast_of, decode_reply

_NONE = "0" * 64
_STATED = ("adapter", "asked", "bytes", "fields", "purpose", "round", "signed", "told")
_DIGITS = 18
_NO_UPDATE = ("['refusal", "['error")


def recorded(settings: NodeSettings, opening: Callable[[OfferedRun], TaskRunner]) -> Callable[[OfferedRun], TaskRunner]:
    """What opens a run at a node, so that what it agreed to and what is sent for it are recorded."""

    def opened(run: OfferedRun) -> TaskRunner:
        with TURN:
            runner = opening(run)
        kit = settings.kit
        consent = consent_digest(run.config, run.base_fingerprint, kit.tls.authority if kit else b"")
        agreed = Consents.of(settings.state, settings.name).has(consent)
        lines, node_run = SentLines.of(settings.state, settings.name), f"{run.run_id:016x}"
        policy = hashlib.sha256(canonical(settings.policy.model_dump(mode="json"))).hexdigest()
        if agreed:
            base = run.base_fingerprint.hex()
            agreement = {"settings": dict(run.config), "base": base, "consent": consent, "policy": policy}
            lines.append({"run_id": node_run, "named": run.name, "agreed": agreement})
        note: dict[str, Any] = {"run_id": node_run}

        def recording(task: ClientTask, body: bytes) -> TaskAnswer:
            with TURN:
                answer = runner.answer(task, body)
            line = _line(task, body, answer)
            if header := _broadcast(task.head + body):
                note["run"] = header.run_id.hex()
                line["adapter"] = header.result_digest.hex()
            lines.append({**note, **line})
            return answer

        return dataclasses.replace(runner, answer=recording)

    return opened


@dataclasses.dataclass(frozen=True)
class SentLines:
    """The lines of one node, in a file that is private to its owner."""

    path: Path

    @classmethod
    def of(cls, state: Path, name: str) -> Self:
        """Those of the node called `name`."""
        return cls(state / f"{name}.sent.jsonl")

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; PeerError if one was changed or is missing."""
        found: list[dict[str, Any]] = []
        before = _NONE
        for number, raw in enumerate((read_if_there(self.path) or b"").split(b"\n")[:-1], 1):
            try:
                line = cast("dict[str, Any]", read_json(raw))
                whole = line["prev"] == before and canonical(line) == raw
            except (ValueError, KeyError, TypeError) as error:
                raise PeerError(f"line {number} of '{self.path}' is none of plait's") from error
            if not whole:
                raise PeerError(
                    f"line {number} of '{self.path}' breaks the hash chain: it was changed, or one is missing"
                )
            before = hashlib.sha256(raw).hexdigest()
            found.append(line)
        return found

    @property
    def count(self) -> int:
        """The number of whole lines, whatever is in them."""
        return (read_if_there(self.path) or b"").count(b"\n")

    def append(self, line: dict[str, Any]) -> None:
        """Add a line, on disk before this returns."""
        with extended(self.path) as (before, add):
            add(canonical(line | {"prev": hashlib.sha256(before[-1]).hexdigest() if before else _NONE}))


def _line(task: ClientTask, body: bytes, answer: TaskAnswer) -> dict[str, Any]:
    category, _, action = task.message_type.partition(".")
    purpose = action or ("describe" if category == "query" else category)
    number = round_and_attempt(task.group_id)[0]
    is_counted = number.isdecimal() and len(number) <= _DIGITS and purpose != Purpose.DESCRIBE
    return {
        "round": int(number) if is_counted else 0,
        "asked": len(task.head) + len(body),
        "bytes": len(answer.data),
        "purpose": purpose,
        **described(answer.data),
    }


def described(data: bytes) -> dict[str, Any]:
    """An answer's fields by name, the digest of what an update's signature covers, and figures as ledgers have them."""
    try:
        reply = decode_reply(data, max_bytes=len(data))
    except PeerError:
        return {"fields": ["error"]}
    match reply:
        case UpdateReply():
            header = read_envelope(reply.update, max_bytes=len(reply.update)).header
            signed = hashlib.sha256(SIGNED_DOMAIN + bytes(split_frame(reply.update).header)).hexdigest()
            fields = ["update: delta", "update: examples", *(f"update: {name}" for name in header.metrics)]
            return {"fields": sorted(fields), "signed": signed}
        case ClientCard():
            known = {name: value for name, value in vars(reply).items() if name in DescribedClient.model_fields}
            card = DescribedClient.model_validate(known).model_dump(mode="json", exclude_none=True)
            return {"fields": _names("description", reply), "told": {"card": card}}
        case Evaluation():
            shared, own = ({"": each} if each else {} for each in client_losses(reply))
            scores = {"score": mean_loss(shared)} | ({"own": mean_loss(own)} if own else {})
            figures = {
                name: each.by_client[""].model_dump(mode="json", exclude_none=True) for name, each in scores.items()
            }
            return {"fields": _names("evaluation", reply), "told": figures}
        case _:
            return {"fields": _names("refusal" if isinstance(reply, Refusal) else type(reply).__name__, reply)}


def _names(kind: str, reply: Reply) -> list[str]:
    names = [each.name for each in dataclasses.fields(cast("Any", reply))]
    return sorted(f"{kind}: {name}" for name in names if getattr(reply, name) is not None)


def _broadcast(task: bytes) -> Header | None:
    try:
        return broadcast_of(task, max_bytes=len(task))
    except PeerError:
        return None


def rounds_in(lines: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """The rounds by run for which an update left, of lines in their order."""
    found: dict[str, set[int]] = {}
    for line in lines:
        if line.get("purpose") == Purpose.TRAIN and not str(line["fields"][:1]).startswith(_NO_UPDATE):
            found.setdefault(line.get("run", line["run_id"]), set()).add(line["round"])
    return {run: sorted(rounds) for run, rounds in found.items()}


def newest_run(lines: Sequence[dict[str, Any]]) -> str:
    """The id of the run that was answered last, as ledgers have it; empty for none."""
    return next((line["run"] for line in reversed(lines) if line.get("run")), "")


def attested(kit: ClientKit, state: Path, *, run: str, about_data: str = "") -> tuple[str, bytes]:
    """The id of a run, and a client's statement of it, signed by its node key.

    Args:
        run: its name, or the beginning of its id; by default the newest.
    """
    lines = SentLines.of(state, kit.name).read()
    run = run or newest_run(lines)
    known = sorted({line["run"] for line in lines if line.get("run")})
    named = {line["run_id"]: line["named"] for line in lines if "named" in line}
    of_name = {line["run"] for line in lines if line.get("run") and named.get(line["run_id"]) == run}
    runs = [each for each in known if each.startswith(run) or each in of_name]
    if len(runs) != 1:
        there = ", ".join(each[:16] for each in known) or "none"
        raise ConfigError(
            f"run '{run}' fits {len(runs)} of the runs of '{kit.name}' ({there}); give the beginning of an id, which "
            "`plait client` shows at the end of the run"
        )
    (run_id,) = runs
    nodes_runs = {line["run_id"] for line in lines if line.get("run") == run_id}
    own = [line for line in lines if line.get("run", run_id) == run_id and line["run_id"] in nodes_runs]
    agreed = {canonical(line["agreed"]): line["agreed"] for line in own if "agreed" in line}
    is_noised = any(each["settings"].get("dp", "off") != "off" for each in agreed.values())
    endorsement = Endorsement.of(kit)
    predicate: dict[str, Json] = {
        "client": kit.name,
        "public_key": kit.node_key.public_bytes.hex(),
        "certificate": base64.b64encode(endorsement.certificate).decode(),
        "endorsement": base64.b64encode(endorsement.signature).decode(),
        "agreed": list(agreed.values()),
        "about_data": about_data,
        "record": hashlib.sha256(canonical(lines[-1])).hexdigest(),
        "forgotten": [
            {"column": each.column, "rounds": [*rounds_in(lines[: each.lines]).get(run_id, [])]}
            for each in Forgotten.of(state, kit.name).groups
        ],
        "messages": _packed([line for line in own if "asked" in line], is_noised=is_noised),
    }
    key = Ed25519PublicKey.from_public_bytes(kit.node_key.public_bytes)
    stated = statement([{"name": "run", "digest": {"plaitRun": run_id}}], STATEMENT, predicate)
    return run_id, enveloped(stated, Signer(key_digest(key).hex(), kit.node_key.sign))


def _packed(messages: Sequence[dict[str, Any]], *, is_noised: bool) -> str:
    kept = [name for name in _STATED if not (is_noised and name in ("bytes", "told"))]
    lines = (canonical({name: line[name] for name in kept if name in line}) + b"\n" for line in messages)
    return base64.b64encode(zlib.compress(b"".join(lines), 9)).decode()


def attest(
    kit: Annotated[Path, typer.Option(help="This client's start-up kit, whose node key signs.")],
    run: Annotated[
        str,
        typer.Argument(
            help="Name of the run, or the beginning of its id; by default the newest that the client took part in."
        ),
    ] = "",
    state: Annotated[
        Path | None, typer.Option(help="Directory of the node's state; by default in your home directory.")
    ] = None,
    about_data: Annotated[
        str,
        typer.Option(help="Your statement, as their owner, about the data: source, licence, legal basis."),
    ] = "",
    out: Annotated[Path | None, typer.Option(help="File to write; by default NAME-RUN.statement.json.")] = None,
) -> None:
    """State what this client agreed to in a run and what left it, signed by its own key, for `plait evidence`.

    Example: plait evidence --attest --kit kit/clients/alice
    """
    loaded = ClientKit.load(kit)
    place = at_home(state) if state else default_state_directory()
    with status("collecting what left this client", quiet=False):
        run_id, data = attested(loaded, place.absolute(), run=run, about_data=about_data)
    path = out or Path(f"{loaded.name}-{run_id[:16]}.statement.json")
    write_atomically(path, data, exported=True)
    print_text(
        f"'{path}' states what '{loaded.name}' sent for run {run_id[:16]}; send it to the person who makes the evidence"
    )
