"""The files of start-up kits, one at a time: the first byte selects the file, the rest is its content."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from harness import instrumented, main

with instrumented():
    from plait.errors import PlaitError
    from plait.trust.kit import ClientKit, ServerKit
    from plait.trust.provision import provision
    from plait.trust.register import Register

HERE = Path(tempfile.mkdtemp(dir=Path("/dev/shm") if Path("/dev/shm").is_dir() else None))
provision(HERE, ["ada"], ["localhost"], now=datetime.now(UTC))
FILES = sorted(path for path in HERE.rglob("*") if path.is_file() and path.parent.name in ("server", "ada"))
ORIGINALS = {path: path.read_bytes() for path in FILES}


def parse(data: bytes) -> None:
    if not data or data[0] >= len(FILES):
        return
    path = FILES[data[0]]
    path.write_bytes(data[1:])
    try:
        if path.parent.name == "server":
            ServerKit.load(path.parent)
            register = Register.load(path.parent)
            for client in register.clients:
                register.check(client.name, client.public_key)
        else:
            ClientKit.load(path.parent)
    except PlaitError as error:
        if "\n" in str(error) or not str(error).isprintable():
            raise ValueError(f"not one printable line: {error!a}") from error
    finally:
        path.write_bytes(ORIGINALS[path])


if __name__ == "__main__":
    main(parse, [bytes([number]) + ORIGINALS[path] for number, path in enumerate(FILES)])
