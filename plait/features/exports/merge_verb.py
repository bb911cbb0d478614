"""``plait merge``: several adapters of one base as one, by their weighted sum, TIES or DARE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_json
from plait.errors import ConfigError
from plait.progress import say, status


def merge(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR[=WEIGHT]…",
            help="Runs or PEFT directories; without weights each counts 1/n.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="New or empty directory for the merged adapter.")],
    how: Annotated[str, typer.Option("--how", metavar="linear|ties|dare", help="Way of merging.")] = "linear",
    density: Annotated[
        float | None,
        typer.Option(
            "--density",
            help="Share of a change's entries that ties and dare keep; by default 0.2.",
            show_default=False,
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank", min=1, help="Rank of the result; by default the sum of ranks for linear, else the largest."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of what dare drops; by default 0.", show_default=False)
    ] = None,
    base: Annotated[str, typer.Option("--base", help="Base, if the adapters name none that is available.")] = "",
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Merge adapters of one base into one, which plait eval, serve, export and --init-adapter take.

    Example: plait merge runs/first runs/second --how ties --out merged
    """
    from plait.adapters import save_peft_directory
    from plait.exporting.card import BASE_ELSEWHERE, HERE, export_card
    from plait.exporting.peft import STYLE, peft_usage
    from plait.exporting.source import open_source
    from plait.features.exports.merging import merge as merge_adapters
    from plait.features.exports.targets import check_target

    check_target("peft", out)
    places = _parsed(sources)
    with status("reading adapters", quiet=json_output):
        given = [(open_source(place, base=base), weight) for place, weight in places]
    with status("merging", quiet=json_output):
        merged = merge_adapters(given, how=how, density=density, rank=rank, seed=seed)
    made = replace(
        given[0][0],
        name=out.resolve().name,
        spec=merged.spec,
        state=merged.state,
        card=None,
        facts={},
        digest="",
        parents=merged.parents,
    )
    usage = peft_usage(made, base=made.base.hub_id or BASE_ELSEWHERE, directory=HERE)
    notes = [
        f"Merged from {len(given)} adapters ({how}{'' if merged.density is None else f', density {merged.density:g}'})."
    ]
    if merged.lost:
        notes.append(f"Its rank {merged.spec.rank} lost {merged.lost:.2%} of the norm of the merged change.")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_peft_directory(
        out,
        spec=merged.spec,
        state=merged.state,
        base=made.base,
        card=export_card(made, STYLE, language="python", usage=usage, notes=notes),
        parents=merged.parents,
    )
    if json_output:
        parents = [parent.to_json() for parent in merged.parents]
        print_json({"directory": str(out), "rank": merged.spec.rank, "lost": merged.lost, "parents": parents})
        return
    lost = f", which lost {merged.lost:.2%} of the merged change" if merged.lost else ""
    say(f"merged {len(given)} adapters into {out} at rank {merged.spec.rank}{lost}", quiet=False)


def _parsed(sources: list[str]) -> list[tuple[Path, float]]:
    """Directories and weights; 1/n each if none has a weight.

    Raises:
        ConfigError: there are too few, or some have weights and others none.
    """
    if len(sources) < 2:
        raise ConfigError(f"plait merge has {len(sources)} adapter, expected at least two")
    found: list[tuple[Path, float | None]] = []
    for source in sources:
        place, _, weight = source.rpartition("=")
        try:
            found.append((Path(place), float(weight)) if place else (Path(source), None))
        except ValueError:
            # A directory with the sign in its name.
            found.append((Path(source), None))
    weights = [weight for _, weight in found if weight is not None]
    if weights and len(weights) < len(found):
        raise ConfigError("some adapters have weights and others none, expected DIR=WEIGHT for all or none")
    return [(place, 1 / len(found) if weight is None else weight) for place, weight in found]
