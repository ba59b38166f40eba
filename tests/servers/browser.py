"""A headless Chromium that a test drives over its DevTools protocol; it reaches this machine alone."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import requests
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page of a browser with a profile of its own."""

    def __init__(self, folder: Path) -> None:
        profile = folder / "profile"
        self.log = folder / "chromium.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
                    "--window-size=1280,1000", "--disable-software-rasterizer",
                    "--force-prefers-reduced-motion", f"--user-data-dir={profile}", "--remote-debugging-port=0",
                    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank",
                ],
                stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            self.connection = connect(self._page(profile), max_size=None, open_timeout=60)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.numbers = itertools.count(1)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.send("Browser.close")
            self.connection.close()
            self.process.wait(timeout=30)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def _page(self, profile: Path) -> str:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            try:
                port = (profile / "DevToolsActivePort").read_text().split()[0]
                pages = requests.get(f"http://127.0.0.1:{port}/json/list", timeout=10).json()
                return next(one["webSocketDebuggerUrl"] for one in pages if one["type"] == "page")
            except (OSError, IndexError, StopIteration, requests.RequestException):
                time.sleep(0.2)
        raise AssertionError(f"Chromium did not start: {self.log.read_text(errors='replace')}")

    def send(self, method: str, seconds: float = 120, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; what the page tells meanwhile is not kept."""
        number = next(self.numbers)
        self.connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        deadline = time.monotonic() + seconds
        while True:
            # A busy page tells much, so the time is for the answer and not for the next message.
            answer = json.loads(self.connection.recv(timeout=max(0.0, deadline - time.monotonic())))
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def go(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """Run a script in the page and return what it gives."""
        deadline = time.monotonic() + 240
        while True:
            try:
                found = self.send("Runtime.evaluate", 20, expression=script, returnByValue=True)
                break
            except TimeoutError:  # Chromium forgets a question that the page before was asked
                assert time.monotonic() < deadline, f"no answer to {script}"
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    @property
    def text(self) -> str:
        """What is read on the page now, frames of the same place included."""
        return self.run(
            "[document, ...[...document.querySelectorAll('iframe')].map(one => one.contentDocument)]"
            ".map(one => one?.body?.innerText ?? '').join('\\n')"
        )

    def wait_for(self, *words: str, seconds: float = 120) -> str:
        """Return the page's text once it shows all of the words."""
        deadline = time.monotonic() + seconds
        text = ""
        while time.monotonic() < deadline:
            text = self.text or ""
            if all(word in text for word in words):
                return text
            time.sleep(0.5)
        lacking = [word for word in words if word not in text]
        raise AssertionError(f"{self.run('location.href')}: no {lacking} in:\n{text[:3000]}")

    def press(self, words: str) -> None:
        """Click on the innermost thing that reads so."""
        script = """(words => {
            const things = "a, button, [role=tab], [role=button], div, span, p";
            const found = [...document.querySelectorAll(things)].filter(one => one.innerText?.trim() === words).pop();
            found?.click();
            return found !== undefined;
        })"""
        deadline = time.monotonic() + 60
        while not self.run(f"{script}({json.dumps(words)})"):
            assert time.monotonic() < deadline, f"nothing reads {words!r}:\n{self.text[:3000]}"
            time.sleep(0.5)

    def fill(self, selector: str, text: str) -> None:
        """Type into a field, as a person does: the page's own scripts see it."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.send("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
