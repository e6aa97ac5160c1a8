"""Real Chromium, headless, over its DevTools protocol: two pipes with JSON and a zero octet after each message."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WITHIN_S = 60.0
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--mute-audio"),
    *("--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-extensions", "--disable-features=Translate,OptimizationHints,MediaRouter"),
    # Whatever a page asks for, nothing leaves this machine.
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe"),
)


class Browser:
    """One Chromium. `page` opens a tab."""

    def __init__(self, profile: Path):
        assert CHROMIUM is not None
        self._number = 0
        self._buffer = b""
        self._pages: dict[str, Tab] = {}
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        argv = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        # Chromium reads its descriptor 3 and writes to 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "chromium", *argv],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands)
        os.close(answers)

    def page(self, width: int, *, height: int = 900, dark: bool = False, print_: bool = False) -> Tab:
        """A new tab of so many CSS pixels; below 600 it is a phone's."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._pages[session] = Tab(self, session, target)
        for domain in ("Page", "Runtime", "Log"):
            tab.call(f"{domain}.enable")
        tab.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", media="print" if print_ else "", features=[scheme])
        return tab

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """One command; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        waiting = json.dumps(message).encode() + b"\0"
        while waiting:
            waiting = waiting[os.write(self._write, waiting) :]
        deadline = time.monotonic() + WITHIN_S
        while True:
            answer = self._next(deadline - time.monotonic())
            assert answer is not None, f"Chromium does not answer {method}"
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def pump(self, for_s: float) -> None:
        """Take in what pages tell, for so long."""
        self._next(for_s)

    def _next(self, within_s: float) -> dict[str, Any] | None:
        """The next message; None when there is none within the time. Events are given to their tab on the way."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, within_s))
            if not ready:
                return None
            octets = os.read(self._read, 1 << 20)
            assert octets, "Chromium has ended"
            self._buffer += octets
        body, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(body)
        tab = self._pages.get(message.get("sessionId", ""))
        if tab is not None and "method" in message:
            tab.told(message["method"], message["params"])
        return message

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session: it and its children, nobody else
        self._process.wait(30)
        os.close(self._read)
        os.close(self._write)


@dataclass
class Tab:
    """One page, and whatever it complains about."""

    browser: Browser
    session: str
    target: str
    errors: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    def told(self, method: str, event: dict[str, Any]) -> None:
        """Errors of the script, of the console, and of the browser: policy, network."""
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.errors.append(str([a.get("value", a.get("description")) for a in event["args"]]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")

    def resize(self, width: int, height: int = 900) -> None:
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def open(self, url: str) -> Tab:
        """Load a page; its script has run when this returns."""
        answer = self.call("Page.navigate", url=url)
        assert not answer.get("errorText"), (url, answer["errorText"])
        loaded = "location.href !== 'about:blank' && document.readyState === 'complete'"
        self.wait_for(loaded, f"for {url} to load")
        return self

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, what: str = "") -> Any:
        """The first value of an expression that is true."""
        deadline = time.monotonic() + WITHIN_S
        while not (value := self.js(expression)):
            assert time.monotonic() < deadline, f"waited in vain {what or expression}"
            self.browser.pump(0.05)
        return value

    def overflow(self) -> list[str]:
        """Elements that stick out of the page to the right, but for those in a box that scrolls on its own."""
        found: list[str] = self.js(_OVERFLOW)
        return found

    def covered(self, selector: str) -> list[str]:
        """What matching elements say that something else lies on."""
        found: list[str] = self.js(f"({_COVERED})({json.dumps(selector)})")
        return found

    def key(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def click(self, selector: str) -> None:
        """Click in the middle of the first element that matches."""
        x, y = self.js(f"({_MIDDLE})(document.querySelector({json.dumps(selector)}))")
        self.click_at(x, y)

    def click_at(self, x: float, y: float) -> None:
        """Click at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def shot(self, file: Path, *, whole: bool = True) -> None:
        """A screenshot."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, file: Path) -> None:
        """As it would print, on A4."""
        answer = self.call("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)
        file.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)


_MIDDLE = """(element) => {
  element.scrollIntoView({block: "center"});
  const box = element.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""
_COVERED = """(selector) => [...document.querySelectorAll(selector)].filter((element) => {
  if (!element.textContent.trim() || !element.getClientRects().length) return false;
  element.scrollIntoView({block: "center"});
  const box = element.getBoundingClientRect();
  return !element.contains(document.elementFromPoint(box.x + Math.min(9, box.width / 2), box.y + box.height / 2));
}).map((element) => element.textContent).slice(0, 5)"""
_OVERFLOW = """(() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width) found.push("the page is " + document.documentElement.scrollWidth);
  const inside = (e) => { for (let p = e.parentElement; p; p = p.parentElement)
    if (p.tagName === "svg" || ["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return true; };
  for (const e of document.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (box.width && box.right > width + 1 && !inside(e))
      found.push(e.tagName + "." + e.className + ": " + e.textContent.slice(0, 40));
  }
  return found.slice(0, 5);
})()"""


@contextmanager
def opened(profile: Path) -> Iterator[Browser]:
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()
