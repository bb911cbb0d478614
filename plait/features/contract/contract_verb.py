"""``plait contract``: sign a contract with a client's kit, or show it and who has signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_text


def contract(
    action: Annotated[str, typer.Argument(help="sign or show.")],
    file: Annotated[Path, typer.Argument(help="The contract, in TOML; signatures lie beside it.")],
    kit: Annotated[Path, typer.Option("--kit", help="Kit of the member who signs, or of anyone who looks.")],
) -> None:
    """Sign a contract among members, or show whether it is in force.

    Example: plait contract sign contract.toml --kit kit/clients/alice
    """
    from plait.errors import ConfigError
    from plait.features.contract.signatures import SUFFIX, Signature, signed_by
    from plait.features.contract.terms import read_contract
    from plait.files import write_atomically
    from plait.trust.kit import AUTHORITY_FILE, ClientKit
    from plait.trust.secret_file import read_small

    read = read_contract(file)
    if action == "sign":
        signature = Signature.of(read, ClientKit.load(kit))
        place = file.with_name(f"{signature.member}{SUFFIX}")
        write_atomically(place, signature.to_bytes())
        print_text(f"'{place}' is {signature.member}'s signature; give it to the others, for KIT/contract of each")
        return
    if action != "show":
        raise ConfigError(f"contract has no '{action}', expected sign or show")
    found = [Signature.load(path) for path in sorted(file.parent.glob(f"*{SUFFIX}"))]
    members = signed_by(read, found, read_small(kit / AUTHORITY_FILE))
    state = "in force" if len(members) >= read.needed else "not in force"
    print_text(
        f"{state}: {len(members)} of {len(read.members)} have signed ({', '.join(members)}), {read.needed} needed"
    )
    for clause, value in read.model_dump(mode="json", by_alias=True).items():
        print_text(f"{clause:<14} {', '.join(value) if isinstance(value, list) else value}", indent=15)
