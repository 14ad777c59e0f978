"""Debian's Chromium, driven by Playwright: pages of a served playground, and files given to them as a person would."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 240_000  # the machine may be busy with something else
ARGUMENTS = [
    "--no-sandbox",  # which root, as in a container, cannot have
    "--use-fake-device-for-media-stream",  # a microphone that beeps and a camera that shows a clock
    "--use-fake-ui-for-media-stream",
]


@contextmanager
def browsing() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page in a fresh profile. Whatever it reports as an error fails the test."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(PATIENCE_MS)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on(
        "request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((url, "blob:", "data:")) else None
    )
    page.goto(url)
    yield page
    assert not [text for text in wrong if "status of 4" not in text], wrong
    context.close()


def hand_over(page: Any, way: str, *files: tuple[str, str, bytes]) -> None:
    """Drop files (name, type, content) onto the page, or paste them into the field that has the focus."""
    given = [{"name": name, "type": kind, "data": base64.b64encode(data).decode()} for name, kind, data in files]
    page.evaluate(
        """([way, given]) => {
          const carried = new DataTransfer();
          for (const { name, type, data } of given) {
            carried.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
          }
          const more = { bubbles: true, cancelable: true };
          const pasted = new ClipboardEvent("paste", { clipboardData: carried, ...more });
          if (way === "paste") document.activeElement.dispatchEvent(pasted);
          else for (const name of ["dragenter", "dragover", "drop"]) {
            document.body.dispatchEvent(new DragEvent(name, { dataTransfer: carried, ...more }));
          }
        }""",
        [way, given],
    )


def answered(page: Any, count: int, within: str = "body") -> None:
    """Wait until there are this many answers, and the last one has ended and been measured."""
    page.wait_for_function(
        """([within, count]) => {
          const all = document.querySelectorAll(`${within} .turn.model`);
          const over = [...all].every((turn) => turn.querySelector(".tools").children.length);
          return all.length === count && over;
        }""",
        arg=[within, count],
    )
