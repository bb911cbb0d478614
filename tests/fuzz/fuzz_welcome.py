"""The run configuration sent to a client, from the welcome's JSON to its policy's answer."""

import json

from harness import instrumented, main, one_line

with instrumented():
    from client.connection import _run_config
    from plait.config import RunConfig
    from plait.errors import ConfigError
    from plait.policy import Policy
    from plait.wire.welcome import WELCOME_KEYS, config_from_welcome, welcome_table

POLICY = Policy()


def parse(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    with one_line(ConfigError):
        config = config_from_welcome(_run_config(text))
        sent = welcome_table(config.to_table())
        if not sent.keys() <= WELCOME_KEYS:
            raise ValueError("a client would be told more than it takes")
        POLICY.check_run(config)


def seeds() -> list[bytes]:
    configs = (
        RunConfig(base="tiny", rounds=2, client_ranks="2,4", bits="1.5"),
        RunConfig(base="tiny", labels="a,b", method="prompt", rule="fedavg"),
        RunConfig(base="tiny", target_modules="q_proj,embed_tokens"),
    )
    honest = [json.dumps(welcome_table(config.to_table())).encode() for config in configs]
    return [*honest, b'{"base": "tiny", "bits": "nan"}', b'{"a":' * 2000, b"{}", b'{"rounds": 1e999}']


if __name__ == "__main__":
    main(parse, seeds())
