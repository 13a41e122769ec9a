"""Check the built documentation site: python scripts/check_site.py [--no-browser] [--shots FOLDER]

Every page is parsed. Each link, anchor and resource must exist in ``site/``, and no page may load
a resource from another host. If Chromium is installed, it opens every page at desktop and phone
width, from a server on the loopback interface. The check fails on an error on the console, a
request to another host, or a page wider than the window. ``--shots`` saves a screenshot of each
page.

Chromium is controlled over a pipe with the DevTools protocol, so no package is needed.
"""

import argparse
import base64
import functools
import http.server
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SITE = Path(__file__).parent.parent / "site"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = {"desktop": 1280, "phone": 390}
#: Tags whose address the browser fetches when it opens the page, and their attribute.
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The anchors, links and loaded addresses of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for value in (found.get("id"), found.get("name")) if value}
        target = found.get("href") if tag == "a" else found.get(LOADED.get(tag, ""))
        if target:
            (self.links if tag == "a" else self.loads).append(target)


def faults_of_links(site: Path) -> Iterator[str]:
    """One line for each broken link or missing resource, and for each resource of another host."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for target in page.links + page.loads:
            parts = urlsplit(target)
            name = path.relative_to(site.resolve())
            if parts.scheme or parts.netloc:
                if target in page.loads and parts.scheme != "data":
                    yield f"{name}: loads {target}"
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[to].anchors if to in pages else set()
            if not to.is_file():
                yield f"{name}: {target} leads nowhere"
            elif to in pages and parts.fragment and unquote(parts.fragment) not in anchors:
                yield f"{name}: {target} has no such anchor"


class Chromium:
    """A headless Chromium with one tab."""

    def __init__(self, program: str, profile: str):
        down, up = os.pipe(), os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        flags += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}"]
        # Chromium reads commands from descriptor 3 and writes answers to descriptor 4.
        shell = f'exec "$0" "$@" 3<&{down[0]} 4>&{up[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, program, *flags, "about:blank"],
            pass_fds=(down[0], up[1]),
            stderr=subprocess.DEVNULL,
        )
        os.close(down[0])
        os.close(up[1])
        self._commands, self._answers = os.fdopen(down[1], "wb"), os.fdopen(up[0], "rb")
        self._buffer, self._count, self._session = b"", itertools.count(1), ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            read = os.read(self._answers.fileno(), 1 << 16)
            if not read:
                raise RuntimeError("Chromium ended before it answered.")
            self._buffer += read
        message, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command; events that arrive before it are stored."""
        command = {"id": next(self._count), "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        while (message := self._next()).get("id") != command["id"]:
            self.events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        result: dict[str, Any] = message["result"]
        return result

    def open(self, url: str, width: int) -> list[dict[str, Any]]:
        """Open a page in a window of this width; return the events until it is loaded."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.events = []
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        self.value("new Promise(done => setTimeout(done, 50))")  # scripts that start after loading
        return self.events

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        options = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        return self.call("Runtime.evaluate", **options)["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as a PNG, cut at a height of 6000 pixels."""
        width = self.value("window.innerWidth")
        height = min(self.value("document.documentElement.scrollHeight"), 6000)
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        self._commands.close()
        self._answers.close()


def faults_of_events(events: list[dict[str, Any]], host: str) -> Iterator[str]:
    """Errors and warnings on the console, exceptions, failed requests, requests to other hosts."""
    for event in events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            yield params["exceptionDetails"]["text"]
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            yield " ".join(str(arg.get("value")) for arg in params["args"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            yield params["entry"]["text"]
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith((host, "data:")):
                yield f"requests {url}"


def faults_in_browser(site: Path, program: str, shots: Path | None) -> Iterator[str]:
    """One line for each fault that appears when Chromium opens the pages."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(site))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_address[1]}/"
        browser = Chromium(program, profile)
        try:
            for path in sorted(site.rglob("*.html")):
                name = path.relative_to(site)
                for label, width in WIDTHS.items():
                    for fault in faults_of_events(browser.open(f"{host}{name}", width), host):
                        yield f"{name}, {label}: {fault}"
                    wide = browser.value("document.documentElement.scrollWidth")
                    if wide > width:
                        yield f"{name}, {label}: {wide} pixels wide, the window has {width}"
                    if shots is not None:
                        file = (
                            shots / f"{str(name.with_suffix('')).replace(os.sep, '-')}-{label}.png"
                        )
                        file.write_bytes(browser.picture())
        finally:
            browser.close()
            server.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--no-browser", action="store_true", help="check links only")
    parser.add_argument("--shots", type=Path, help="folder for a picture of each page")
    options = parser.parse_args()
    if not (SITE / "index.html").is_file():
        sys.exit("check_site: there is no site/index.html; build it with: make docs")
    faults = list(faults_of_links(SITE))
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    checked = "links"
    if program is not None and not options.no_browser:
        if options.shots is not None:
            options.shots.mkdir(parents=True, exist_ok=True)
        faults += faults_in_browser(SITE, program, options.shots)
        checked = f"links, console and width in {program}"
    elif not options.no_browser:
        print(f"check_site: no Chromium found ({', '.join(BROWSERS)}); checking links only.")
    print(*faults, sep="\n", end="\n" if faults else "")
    count = len(list(SITE.rglob("*.html")))
    print(f"check_site: {count} pages, {len(faults)} faults ({checked}).")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
