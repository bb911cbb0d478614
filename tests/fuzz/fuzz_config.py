"""Settings: a TOML file as for `--config`, and a table as a server sends it to its nodes."""

import json

from harness import SCRATCH, instrumented, main

with instrumented():
    from plait.config import RunConfig, config_from_table, to_toml
    from plait.errors import PlaitError
    from plait.settings.table import read_config_table

FILE = SCRATCH / "config.toml"


def parse(data: bytes) -> None:
    FILE.write_bytes(data)
    for read in (lambda: read_config_table(FILE), lambda: json.loads(data)):
        try:
            table = read()
        except (PlaitError, ValueError, RecursionError):
            continue
        if not isinstance(table, dict):
            continue
        try:
            config = config_from_table(table)
        except PlaitError as error:
            if "\n" in str(error):
                raise ValueError(f"not one line: {error!a}") from error
            continue
        FILE.write_text(to_toml(config))
        if config_from_table(read_config_table(FILE)) != config:
            raise ValueError("what was read is written otherwise")


def seeds() -> list[bytes]:
    config = RunConfig(base="tiny", rounds=2, labels="a,b", client_ranks="2,4", publish="out")
    return [
        to_toml(config).encode(),
        b'num-server-rounds = 3\nlora-r = 4\nwire = "1.5"\n',
        json.dumps(config.to_table()).encode(),
        b"rounds = 1\n[table]\nx = [1, 2]\nt = 1979-05-27\nf = nan\n",
    ]


if __name__ == "__main__":
    main(parse, seeds())
