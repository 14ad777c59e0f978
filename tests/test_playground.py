"""The playground as files: what is sent, to whom, and what its scripts never do."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from serving import Served

from castor.server.playground import PAGE, files

SCRIPTS = sorted(PAGE.glob("*.js"))
SETTINGS = {"keys": ("secret",)}


def test_the_page_is_open_and_what_it_asks_is_not(served: Served) -> None:
    page = httpx.get(f"{served.url}/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert httpx.get(f"{served.url}/v1beta/models").status_code == 401
    assert httpx.get(f"{served.url}/playground").status_code == 401  # no address of the page
    assert httpx.post(f"{served.url}/", content=b"x").status_code == 405


def test_nothing_but_its_own_files_may_run(served: Served) -> None:
    for path in ("/", "/playground/app.js", "/playground/scene.png"):
        headers = httpx.get(f"{served.url}{path}").headers
        rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_every_file_that_is_named_is_there(served: Served) -> None:
    named = set(re.findall(r'"/playground/([^"]+)"', (PAGE / "index.html").read_text()))
    for script in SCRIPTS:
        named |= set(re.findall(r'from "\./([^"]+)"', script.read_text()))
        named |= set(re.findall(r'file: "([^"]+)"', script.read_text()))
    assert {"app.js", "style.css", "theme.js", "speech.wav"} <= named <= set(files())
    unused = {path.name for path in PAGE.iterdir()} - named - {"index.html"}
    assert not unused
    for name in named:
        reply = httpx.get(f"{served.url}/playground/{name}")
        assert reply.status_code == 200
        assert reply.content == files()[name].content
        again = httpx.get(f"{served.url}/playground/{name}", headers={"if-none-match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_no_other_file_is_sent(served: Served) -> None:
    for name in (
        "playground.py",
        "samples.json.bak",
        "..%2fapp.py",
        "%2e%2e/app.py",
        "../keys.py",
        "x/app.js",
        ".",
        "",
    ):
        assert httpx.get(f"{served.url}/playground/{name}").status_code in (401, 404), name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_text_never_becomes_markup_and_nothing_comes_from_outside(script: Path) -> None:
    text = script.read_text()
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "srcdoc",
        "eval(",
        "Function(",
    ):
        assert word not in text
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
