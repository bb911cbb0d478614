"""Headless Chromium for tests, driven over a pipe by the DevTools protocol: needs the browser and nothing else."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page in one browser."""

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        assert CHROMIUM
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (read_here, write_there), (read_there, write_here) = os.pipe(), os.pipe()
        options = (
            "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --remote-debugging-pipe"
        )
        # The browser reads commands from file 3 and answers on file 4.
        command = (
            f'exec "$0" {options} "--user-data-dir={self._profile.name}" about:blank 3<&{read_there} 4>&{write_there}'
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM],
            pass_fds=(read_there, write_there),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_there)
        os.close(write_there)
        self._in, self._out = os.fdopen(write_here, "wb"), os.fdopen(read_here, "rb")
        self._buffer = b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.messages: list[dict] = []
        (target, *_) = (t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.set_dark(dark=dark)

    def resize(self, width: int, height: int) -> None:
        mobile = width < 500
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def set_dark(self, *, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def call(self, method: str, **parameters: object) -> dict:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._in.write(json.dumps(message).encode() + b"\0")
        self._in.flush()
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.messages.append(answer)

    def _next(self) -> dict:
        while b"\0" not in self._buffer:
            data = os.read(self._out.fileno(), 1 << 16)
            assert data, "the browser has ended"
            self._buffer += data
        one, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(one)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def js(self, expression: str) -> object:
        """The value of an expression in the page, a promise's once it is kept."""
        said = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def wait(self, expression: str, *, timeout_s: float = 180.0) -> object:
        """Wait until an expression is true in the page."""
        end = time.monotonic() + timeout_s
        while not (value := self.js(f"(() => {{ try {{ return {expression}; }} catch {{ return null; }} }})()")):
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(0.05)
        return value

    def complaints(self) -> list[str]:
        """Errors that scripts raised and that the browser logged, such as violations of the security policy."""
        self.js("1")
        found = [
            m["params"]["exceptionDetails"]["text"] for m in self.messages if m["method"] == "Runtime.exceptionThrown"
        ]
        logged = (m["params"]["entry"] for m in self.messages if m["method"] == "Log.entryAdded")
        return found + [entry["text"] for entry in logged if entry["level"] == "error"]

    def requested(self) -> list[str]:
        """Addresses of all requests so far."""
        self.js("1")
        return [m["params"]["request"]["url"] for m in self.messages if m["method"] == "Network.requestWillBeSent"]

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._in.close()
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._profile.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
