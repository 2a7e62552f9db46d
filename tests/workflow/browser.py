"""A headless browser, spoken to over the pipe of its debugging protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
FLAGS += ["--hide-scrollbars", "--window-size=1400,1000", "--remote-debugging-pipe"]
FLAGS += ["--disable-background-networking", "--disable-extensions", "--disable-component-update"]


class Browser:
    """One page. `events` are what the browser reported so far, oldest first."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        command = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'  # the protocol's pipes are 3 and 4
        self.process = subprocess.Popen(
            ["bash", "-c", command, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in), os.close(theirs_out)
        self.reads, self.writes = ours_in, ours_out
        self.rest, self.events, self.numbers, self.session = b"", [], itertools.count(1), None
        pages = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self.session = attached["sessionId"]

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.reads), os.close(self.writes)

    def _message(self, until: float) -> dict[str, Any]:
        while b"\0" not in self.rest:
            if not select.select([self.reads], [], [], max(until - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser does not answer")
            self.rest += os.read(self.reads, 1 << 16)
        text, _, self.rest = self.rest.partition(b"\0")
        return json.loads(text)

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        number, until = next(self.numbers), time.monotonic() + 30
        session = {"sessionId": self.session} if self.session else {}
        message = {"id": number, "method": method, "params": params, **session}
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while True:
            message = self._message(until)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.events.append(message)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is in the page."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> Any:
        """The value of an expression as soon as it is true."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := self.value(expression):
                return found
            time.sleep(0.1)
        raise TimeoutError(f"never true: {expression}\n{self.value('document.body.innerText')[:2000]}")

    def screenshot(self) -> bytes:
        return base64.b64decode(self("Page.captureScreenshot", format="png")["data"])

    def reported(self, method: str) -> list[dict[str, Any]]:
        return [e["params"] for e in self.events if e.get("method") == method]
