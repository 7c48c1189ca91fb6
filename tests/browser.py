"""A browser by hand: Debian's chromium, driven through chromedriver's W3C protocol by the standard library alone."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

needs_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="no browser: apt-get install chromium chromium-driver",
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOGS = {"performance": "ALL", "browser": "ALL"}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ESCAPE, ENTER = "\ue00c", "\ue007"


class Browser:
    """One tab."""

    def __init__(self, port: int, width: int, height: int, dark: bool = False) -> None:
        self.url = f"http://127.0.0.1:{port}/session"
        options = {
            "binary": shutil.which("chromium"),
            "args": [*FLAGS, *(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else [])],
            # A desktop window is never narrower than 500 px; an emulated phone is.
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0}},
        }
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": LOGS}
        session = self._call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self.url += f"/{session['sessionId']}"
        # A busy machine draws late.
        self._call("POST", "/timeouts", {"implicit": 20_000})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, {"Content-Type": "application/json"}, method=method)
        # Not through a proxy of this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"].splitlines()[0]) from None

    def open(self, path: Path) -> None:
        self._call("POST", "/url", {"url": path.resolve().as_uri()})

    def run(self, script: str, *values: Any) -> Any:
        """What a function body returns in the page."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(values)})

    def find(self, place: str) -> str:
        """place: a CSS selector, or an XPath that begins with //."""
        using = "xpath" if place.startswith("//") else "css selector"
        return self._call("POST", "/element", {"using": using, "value": place})[ELEMENT]

    def click(self, place: str) -> None:
        """As a person does: scrolled into view, and refused where something lies above it."""
        self._call("POST", f"/element/{self.find(place)}/click", {})

    def press(self, place: str, key: str) -> None:
        self._call("POST", f"/element/{self.find(place)}/value", {"text": key})

    def into(self, place: str | None) -> None:
        """Look into a frame; with None, at the page again."""
        self._call("POST", "/frame", {"id": place and {ELEMENT: self.find(place)}})

    def errors(self) -> list[str]:
        """What scripts and the page complained of since the last call."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        entries = [json.loads(e["message"])["message"] for e in self._call("POST", "/se/log", {"type": "performance"})]
        return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def close(self) -> None:
        self._call("DELETE", "")


@contextlib.contextmanager
def browser(width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        [shutil.which("chromedriver"), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        tab = Browser(port, width, height, dark)
        try:
            yield tab
        finally:
            tab.close()
    finally:
        driver.terminate()
        driver.wait()
