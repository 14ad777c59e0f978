"""The playground in a real browser, with the shipped model behind it: what a newcomer does, from the first click on."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browsing import answered, browsing, hand_over, visiting
from serving import Served, sample, serving, wait_until

import castor

pytestmark = pytest.mark.slow
DRAW = "Draw a large red circle left of a small blue square."


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as opened:
        yield opened


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(castor.load("atom", device="cpu"), name="atom", max_tokens=64) as running:
        yield running


def ask(page: Any, text: str, field: str = "#chat-field") -> None:
    page.fill(field, text)
    page.press(field, "Enter")


def said_by_api(served: Served, *parts: dict[str, Any], **config: Any) -> str:
    """The same question asked without the page."""
    body = {"contents": [{"role": "user", "parts": list(parts)}], "generationConfig": config}
    reply = httpx.post(f"{served.url}/v1beta/models/atom:generateContent", json=body, timeout=600).json()
    return "".join(part.get("text", "") for part in reply["candidates"][0]["content"]["parts"])


def inline(name: str, kind: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": kind, "data": base64.b64encode(sample(name)).decode()}}


def pictures_are_painted(page: Any, selector: str) -> bool:
    return page.eval_on_selector_all(
        selector, "all => all.length > 0 && all.every((i) => i.complete && i.naturalWidth)"
    )


def test_a_conversation_with_a_picture_a_drawing_and_its_cost(served: Served, browser: Any) -> None:
    with visiting(browser, served.url) as page:
        page.wait_for_selector("#chat-field:focus")
        ask(page, DRAW)
        answered(page, 1)
        page.wait_for_selector(".drawn img")
        assert pictures_are_painted(page, ".drawn img")
        ask(page, "What color is the shape at the top left?")  # a second turn, and a drawing of its own goes with it
        answered(page, 2)
        assert page.locator(".failure").count() == 0
        page.click("text=New chat")
        assert page.locator(".turn").count() == 0
        assert page.is_visible(".welcome")
        hand_over(page, "drop", ("scene.png", "image/png", sample("scene.png")))
        page.wait_for_selector(".tray img")
        question = "How many red shapes are there?"
        ask(page, question)
        answered(page, 1)
        expected = said_by_api(served, inline("scene.png", "image/png"), {"text": question})
        assert page.inner_text(".turn.model .said").strip() == expected.strip() != ""
        meter = page.inner_text(".meter")
        assert re.search(r"[\d.]+ m?s\s+first token\s+[\d.]+\s+tokens/s", meter)
        assert re.search(r"31\s+in\s+15 text \+ 16 picture", meter)


def test_a_photo_and_a_voice_note_in_one_question(served: Served, browser: Any) -> None:
    with visiting(browser, served.url) as page:
        page.wait_for_selector("#chat-field")
        page.click("[aria-label='Record a voice note']")
        page.wait_for_selector(".recording")
        page.wait_for_timeout(1500)
        page.click("[aria-label='Stop recording']")
        page.wait_for_selector(".tray audio")
        page.focus("#chat-field")
        hand_over(page, "paste", ("photo.png", "image/png", sample("scene.png")))
        page.wait_for_selector(".tray img")
        page.click("[aria-label=Send]")
        answered(page, 1)
        meter = page.inner_text(".meter")
        assert "picture" in meter and "sound" in meter
        hand_over(page, "drop", ("note.wav", "audio/wav", sample("speech.wav")))
        ask(page, "What is said here?")
        answered(page, 2)
        assert page.locator(".failure").count() == 0
        hand_over(page, "drop", ("program.exe", "application/x-msdownload", b"MZ"))
        page.wait_for_selector(".toast:has-text('program.exe')")
        assert page.locator(".tray li").count() == 0


def test_samples_film_page_camera_and_phone(served: Served, browser: Any) -> None:
    with visiting(browser, served.url, viewport={"width": 390, "height": 780}, has_touch=True) as page:
        page.click(".sample:has-text('A film')")
        answered(page, 1)
        assert "film" in page.inner_text(".meter")
        page.click("text=New chat")
        page.click(".sample:has-text('A page')")
        answered(page, 1)
        assert re.search(r"\d page", page.inner_text(".meter"))
        page.click("[aria-label='Take a picture']")
        page.wait_for_function("() => document.getElementById('camera-view').videoWidth > 0")
        page.click("#camera-take")
        page.wait_for_selector(".tray img")
        assert not page.evaluate("document.body.scrollWidth > innerWidth")
        page.click("[aria-controls=settings-panel]")
        page.wait_for_selector("#settings-panel.open #settings-model:focus")
        page.keyboard.press("Escape")
        page.wait_for_selector("[aria-controls=settings-panel]:focus")


def test_settings_reach_the_model_and_its_words_stay_words(served: Served, browser: Any) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    with visiting(browser, served.url) as page:
        page.wait_for_selector("#chat-field")
        page.fill("#settings-schema", '{"const": 1')
        assert page.is_visible(".problem")
        ask(page, "x")
        assert page.input_value("#chat-field") == "x"  # nothing was sent
        page.evaluate("([text]) => document.getElementById('settings-schema').value = text", [f'{{"const": "{evil}"}}'])
        page.dispatch_event("#settings-schema", "input")
        ask(page, f"{evil}")
        answered(page, 1)
        assert page.inner_text(".turn.model .said").strip() == f'"{evil}"'
        assert page.inner_text(".turn.user .said") == evil
        assert page.locator(".turns img, .turns script").count() == 0
        page.click("text=Reset")
        page.fill("#settings-maxOutputTokens", "2")  # the tiny model would end after these
        page.fill("#settings-temperature", "1")
        page.fill("#settings-seed", "7")
        page.select_option("#settings-form", "TEXT")
        page.click("text=New chat")
        ask(page, "Describe a scene")
        answered(page, 1)
        config = {"maxOutputTokens": 2, "temperature": 1, "seed": 7, "responseModalities": ["TEXT"]}
        assert page.inner_text(".block").strip() == said_by_api(served, {"text": "Describe a scene"}, **config).strip()
        assert "cut off" in page.inner_text(".meter")
        page.reload()  # and they are kept
        page.wait_for_selector("#chat-field")
        assert page.input_value("#settings-seed") == "7"


def test_stop_frees_the_place(served: Served, browser: Any) -> None:
    with visiting(browser, served.url) as page:
        page.wait_for_selector("#chat-field")
        page.fill("#settings-maxOutputTokens", "4000")
        page.fill("#settings-temperature", "2")
        page.select_option("#settings-form", "TEXT")
        page.fill("#settings-schema", '{"type": "array", "minItems": 2000, "items": {"type": "integer"}}')  # never ends
        ask(page, "Count")
        page.wait_for_selector(".turn.model .block")
        page.click("[aria-label=Stop]")
        answered(page, 1)
        assert "stopped" in page.inner_text(".meter")
        gauge = re.compile(r"^castor_requests_inside(?:\{.*\})? 0\.0$", re.MULTILINE)
        wait_until(lambda: gauge.search(httpx.get(f"{served.url}/metrics").text) is not None, 120)
        ask(page, "Count")
        page.wait_for_selector("[aria-label=Stop]")
        page.click("text=New chat")  # ends the answer as well, and the next question can be asked
        page.fill("#settings-schema", "")
        page.fill("#settings-maxOutputTokens", "5")
        ask(page, "What is 2 + 3?")
        answered(page, 1)
        assert page.locator(".failure").count() == 0


def test_two_answers_are_compared_and_voted_on(served: Served, browser: Any) -> None:
    with visiting(browser, served.url) as page:
        page.click("#tab-compare")
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector("#view-chat:not([hidden])")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#compare-field:visible")
        page.click(".contender:nth-child(2) summary")
        page.fill("#lane-b-temperature", "1.5")
        page.fill("#lane-b-seed", "3")
        page.click(".contender:nth-child(2) summary")
        ask(page, "What is 27 + 48?", "#compare-field")
        answered(page, 2, ".compare")
        page.wait_for_selector(".ballot:not([hidden])")
        expected = said_by_api(served, {"text": "What is 27 + 48?"}).strip()
        assert page.inner_text("[aria-label='Left answer'] .block").strip() == expected
        page.click("text=Left is better")
        rows = page.locator(".elo tbody tr").all_inner_texts()
        assert [row.split("\t")[1:] for row in rows] == [["1016", "1"], ["984", "1"]]
        assert "temperature 1.5" in rows[1]
        page.reload()
        page.click("#tab-compare")
        assert page.locator(".elo tbody tr").count() == 2


def test_copied_code_says_the_same(served: Served, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "scene.png").write_bytes(sample("scene.png"))
    with visiting(browser, served.url) as page:
        page.fill("#settings-system", 'Be "brief" at $0 `and` \\ so on')
        page.fill("#settings-maxOutputTokens", "20")
        page.select_option("#settings-form", "TEXT")
        hand_over(page, "drop", ("scene.png", "image/png", sample("scene.png")))
        ask(page, "What shape is at the top left?")
        answered(page, 1)
        said = page.inner_text(".turn.model .said").strip()
        page.click("[aria-label='This request as code']")
        codes = {}
        for client in ("google-genai", "openai", "@google/genai", "curl"):
            page.get_by_role("tab", name=client, exact=True).click()
            page.click("#code-copy")
            page.wait_for_function("() => document.getElementById('code-note').textContent === 'Copied'")
            codes[client] = page.evaluate("navigator.clipboard.readText()")
            assert codes[client] == page.text_content("#code-text")
    assert said
    environment = {**os.environ, "HOME": str(tmp_path)}
    for client in ("google-genai", "openai"):
        ran = subprocess.run(
            [sys.executable, "-c", codes[client]], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert ran.stdout.strip() == said, (client, ran.stderr[-2000:])
    ran = subprocess.run(["bash", "-c", codes["curl"]], cwd=tmp_path, capture_output=True, text=True)
    assert "".join(re.findall(r'"text": "([^"]*)"', ran.stdout)).strip() == said, ran.stderr
    assert "readFileSync" in codes["@google/genai"]


def test_a_key_is_asked_for_and_used(browser: Any) -> None:
    with (
        serving(castor.load("atom", device="cpu"), keys=("secret",), name="atom") as guarded,
        visiting(browser, guarded.url) as page,
    ):
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key-field", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key-field", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#chat-field")
        ask(page, "What is 2 + 3?")
        answered(page, 1)
        page.click("[aria-label='This request as code']")
        assert "secret" not in page.text_content("#code-text")


def test_search_by_words_and_by_likeness(browser: Any, tmp_path: Path) -> None:
    """The order and the scores are those of the vectors that the API gives; a file is most like itself."""
    pytest.importorskip("castor.server.models")  # with which models that make vectors are served
    published = pytest.importorskip("published")
    published.write_tower_checkpoint(tmp_path, "embedding_gemma2")
    files = [("scene.png", "image/png"), ("speech.wav", "audio/wav"), ("clip.mp4", "video/mp4")]
    with serving(castor.load(tmp_path, device="cpu")) as served, visiting(browser, served.url) as page:
        page.wait_for_selector("#search-query")
        assert page.locator("#tab-chat").is_hidden()
        hand_over(page, "drop", *((name, kind, sample(name)) for name, kind in files))
        page.wait_for_function("() => document.querySelectorAll('.result').length === 3")
        page.fill("#search-note", "a red circle")
        page.press("#search-note", "Enter")
        page.wait_for_function("() => document.querySelectorAll('.result').length === 4")
        ask(page, "a blue square", "#search-query")
        page.wait_for_function("() => document.querySelectorAll('.score:not(:empty)').length === 4")
        shown = dict(zip(*(page.locator(f".result {part}").all_inner_texts() for part in ("b", ".score")), strict=True))

        def vector(part: dict[str, Any], task: str) -> np.ndarray:
            body = {"requests": [{"model": "models/tiny", "content": {"parts": [part]}, "taskType": task}]}
            reply = httpx.post(f"{served.url}/v1beta/models/tiny:batchEmbedContents", json=body, timeout=600)
            found = np.array(reply.json()["embeddings"][0]["values"])
            return found / np.linalg.norm(found)

        held = {name: vector(inline(name, kind), "RETRIEVAL_DOCUMENT") for name, kind in files}
        held["a red circle"] = vector({"text": "a red circle"}, "RETRIEVAL_DOCUMENT")
        query = vector({"text": "a blue square"}, "RETRIEVAL_QUERY")
        expected = {name: float(query @ found) for name, found in held.items()}
        assert list(shown) == sorted(expected, key=lambda name: -expected[name])
        assert all(abs(float(shown[name]) - expected[name]) < 2e-3 for name in expected)
        page.set_viewport_size({"width": 360, "height": 740})
        assert not page.evaluate("document.body.scrollWidth > innerWidth")
        page.click(".result:has-text('speech.wav') button:has-text('More like this')")
        page.wait_for_selector(".result:first-child:has-text('speech.wav')")
        assert page.inner_text(".result:first-child .score") == "1.000"


def test_labels_contrast_and_themes(served: Served, browser: Any) -> None:
    with visiting(browser, served.url, color_scheme="dark") as page:
        page.wait_for_selector("#chat-field")
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, textarea, a[href]")].filter((node) =>
              !(node.labels?.length || node.getAttribute("aria-label") || node.textContent.trim())
            ).map((node) => node.outerHTML)"""
        )
        assert nameless == []
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
        assert len(ids) == len(set(ids))
        backgrounds = {}
        for theme in ("as the device", "light", "dark"):
            assert page.get_attribute("#theme-button", "aria-label") == f"Theme: {theme}"
            backgrounds[theme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
            low = page.evaluate(CONTRAST)
            assert not low, (theme, low)
            page.click("#theme-button")
        assert backgrounds["as the device"] == backgrounds["dark"] != backgrounds["light"]


# Every text of the page whose contrast with the nearest painted background is below 4.5 (WCAG 2.2, level AA).
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return node.parentElement && rgba(colour)[3] < 255 ? ground(node.parentElement) : colour;
  };
  const low = [];
  for (const node of document.querySelectorAll("p, b, span, label, button, h2, input, textarea, select")) {
    const style = getComputedStyle(node);
    const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!hasText || !node.checkVisibility() || style.color === "rgba(0, 0, 0, 0)") continue;
    const [a, b] = [light(rgba(style.color)), light(rgba(ground(node)))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push(`${node.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""
