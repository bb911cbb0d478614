"""The files of start-up kits, one at a time: the first byte selects the file, the rest is its content."""

from datetime import UTC, datetime

from harness import SCRATCH, instrumented, main, one_line

with instrumented():
    from plait.errors import PlaitError
    from plait.trust.kit import ClientKit, ServerKit
    from plait.trust.provision import provision
    from plait.trust.register import Register

provision(SCRATCH, ["ada"], ["localhost"], now=datetime.now(UTC))
FILES = sorted(path for path in SCRATCH.rglob("*") if path.is_file() and path.parent.name in ("server", "ada"))
ORIGINALS = {path: path.read_bytes() for path in FILES}


def parse(data: bytes) -> None:
    if not data or data[0] >= len(FILES):
        return
    for each, original in ORIGINALS.items():
        each.write_bytes(data[1:] if each is FILES[data[0]] else original)
    path = FILES[data[0]]
    with one_line(PlaitError, printable=True):
        if path.parent.name == "server":
            ServerKit.load(path.parent)
            register = Register.load(path.parent)
            for client in register.clients:
                register.check(client.name, client.public_key)
        else:
            ClientKit.load(path.parent)


if __name__ == "__main__":
    main(parse, [bytes([number]) + ORIGINALS[path] for number, path in enumerate(FILES)])
