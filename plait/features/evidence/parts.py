"""The parts of a bundle in others' formats: OpenSSF's model signature, CycloneDX's ML-BOM, in-toto's own check.

Their libraries are the extra ``evidence``; nothing is asked of any service.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from plait.adapters import Json
from plait.features.evidence.signing import Signing
from plait.places import at
from plait.rounds.ledger import Line

HOW_TO_INSTALL = "pip install 'plait[evidence]'"


def have_libraries() -> bool:
    """Whether the extra is installed."""
    return all(importlib.util.find_spec(name) for name in ("model_signing", "cyclonedx", "in_toto_attestation"))


def model_signature(folder: Path, signing: Signing) -> Json:
    """The adapter's signature in OpenSSF's format, with the certificate of the kit or the run's own key."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "model.sig"
        config = at("model_signing.signing:Config")()
        if signing.kit is not None:
            config.use_certificate_signer(
                private_key=signing.key_file,
                signing_certificate=signing.kit / "server.crt",
                certificate_chain=[signing.kit / "ca.crt"],
            )
        else:
            config.use_elliptic_key_signer(private_key=signing.key_file)
        config.set_hashing_config(at("model_signing.hashing:Config")()).sign(folder, place)
        return cast("Json", json.loads(place.read_text()))


def bill_of_materials(
    lines: Sequence[Line], files: Mapping[str, str], about_data: Mapping[str, str], base_licence: str
) -> Json:
    """The ML-BOM in CycloneDX 1.6: adapter, base, parents, data.

    Args:
        files: SHA-256 of the adapter's, by name.
        base_licence: as the operator says; empty if nothing is said.
    """
    component, kinds = at("cyclonedx.model.component:Component"), at("cyclonedx.model.component:ComponentType")
    kind, of_data = kinds.MACHINE_LEARNING_MODEL, kinds.DATA
    licence, note = at("cyclonedx.model.license:DisjunctiveLicense"), at("cyclonedx.model:Property")
    first = cast("dict[str, Any]", lines[0])
    ended = next(cast("dict[str, Any]", line) for line in reversed(lines) if line["event"] == "run_finished")

    def sha256(digest: str) -> list[Any]:
        named = at("cyclonedx.model:HashAlgorithm").SHA_256
        return [at("cyclonedx.model:HashType")(alg=named, content=digest)] if digest else []

    base = component(
        name=first["base"]["name"],
        type=kind,
        bom_ref="base",
        hashes=sha256(first["base"]["fingerprint"]),
        licenses=[licence(name=base_licence)] if base_licence else [],
    )
    adapter = component(
        name=first.get("name") or "adapter",
        type=kind,
        bom_ref="adapter",
        hashes=sha256(ended["adapter"]),
        properties=[note(name=f"plait:{name}", value=digest) for name, digest in files.items()],
    )
    others = [
        component(name=f"parent {number}", type=kind, bom_ref=f"parent-{number}", hashes=sha256(parent["digest"]))
        for number, parent in enumerate(first.get("parents") or (), 1)
    ]
    if used := first.get("data"):
        others.append(component(name=used["name"], type=of_data, bom_ref="data", hashes=sha256(used["fingerprint"])))
    others += [
        component(name=f"data of {client}", type=of_data, bom_ref=f"data-{client}", description=words or None)
        for client, words in about_data.items()
    ]
    bom = at("cyclonedx.model.bom:Bom")(components=[base, *others])
    bom.metadata.component = adapter
    bom.register_dependency(adapter, [base, *others])
    return cast("Json", json.loads(at("cyclonedx.output.json:JsonV1Dot6")(bom).output_as_string()))


def checked(statement: Mapping[str, Json]) -> None:
    """Let in-toto's own library look at a statement.

    Raises:
        ValueError: it is not one.
    """
    message = at("in_toto_attestation.v1.statement_pb2:Statement")()
    read = at("google.protobuf.json_format:Parse")(json.dumps(statement), message)
    at("in_toto_attestation.v1.statement:Statement").copy_from_pb(read).validate()
