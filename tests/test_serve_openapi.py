"""Every route of the OpenAPI document, with bodies that fit it and bodies that do not: refused in the client's form."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
from serving import Served

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1e308, 2**70, "", "x", "é\u2028", "files/../x", "models/tiny", "data:,", [], [[]], [None], {}),
    *([{}], {"": ""}, {"parts": []}, {"parts": [{"text": "a"}]}, [{"parts": [{"text": "a"}]}], [{"role": "user"}]),
    *([{"role": "user", "content": "a"}], {"text": 1}, [1, 2], ["a", 1], {"requests": [{}]}, "300s", {"batch": {}}),
    *([{"content": {"parts": [{"text": "a"}]}}], {"inputConfig": {"fileName": "files/x"}}, {"type": "json_schema"}),
    *([{"functionDeclarations": [{}]}], [{"category": "x", "threshold": "y"}], [{"type": "text", "text": "a"}]),
)
MAY_END_WELL = {200}
REFUSED = {400, 401, 404, 405, 408, 409, 411, 413, 416, 429, 501, 503}
SETTINGS = {"max_tokens": 2}


def requests(document: dict[str, Any], chance: random.Random, per_route: int) -> Iterator[tuple[str, str, Any]]:
    """Method, address and body: every field of a route with odd values, alone, together and beside unknown ones."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            fields = list(content["schema"]["properties"]) if content else []
            for _ in range(per_route):
                place = path
                for parameter in operation["parameters"]:
                    odd = chance.choice(["tiny", "tiny", "tiny", "x", "%2e%2e", "a" * 300, "%00", "é"])
                    place = place.replace(f"{{{parameter['name']}}}", odd)
                chosen = chance.sample(fields, chance.randint(0, len(fields)))[:4]
                body: Any = {key: chance.choice(ODD) for key in chosen}
                if "model" in fields and chance.random() < 0.7:
                    body["model"] = "tiny"
                if chance.random() < 0.1:
                    body = chance.choice(ODD)
                yield method.upper(), place, body


def outcomes_of(served: Served, asked: Iterator[tuple[str, str, Any]]) -> Counter[int]:
    """How often each status came; whatever is neither answered nor refused in the client's form fails."""
    outcomes: Counter[int] = Counter()
    with httpx.Client(base_url=served.url, timeout=60) as http:
        for method, path, body in asked:
            reply = http.request(method, path, content=json.dumps(body), headers={"content-type": "application/json"})
            outcomes[reply.status_code] += 1
            case = f"{method} {path} {json.dumps(body)[:300]}: {reply.status_code} {reply.text[:200]}"
            assert reply.status_code in MAY_END_WELL | REFUSED, case
            if reply.status_code in REFUSED and path not in ("/readyz", "/healthz"):
                error = reply.json()["error"]
                assert error["message"] and ({"status"} | {"type"} | {"code"}) & set(error), case
    assert httpx.get(f"{served.url}/readyz").json() == {"status": "ready"}
    print(dict(outcomes))
    return outcomes


def test_every_route_refuses_in_form(served: Served) -> None:
    document = httpx.get(f"{served.url}/openapi.json").json()
    assert document["openapi"].startswith("3.1") and len(document["paths"]) > 60
    outcomes = outcomes_of(served, requests(document, random.Random(0), 8))
    assert outcomes[400] > 50 and outcomes[200] > 20


CONFIG = {"temperature": 0.5, "topP": 0.9, "topK": 3, "seed": 1, "maxOutputTokens": 2, "stopSequences": ["x"]}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
CONTENTS = [
    {"role": "user", "parts": [{"text": "a"}, {"inlineData": {"mimeType": "image/png", "data": PIXEL}}]},
    {"role": "model", "parts": [{"text": "b"}]},
    {"role": "user", "parts": [{"text": "c"}]},
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"functionDeclarations": [{"name": "f", "description": "d", "parameters": SCHEMA}]}
ANSWER = {
    "contents": CONTENTS,
    "systemInstruction": {"parts": [{"text": "s"}]},
    "generationConfig": {**CONFIG, "responseModalities": ["TEXT"]},
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
}
CHAT = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]},
    ],
    **{"max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "n": 1, "seed": 1, "stop": ["x"], "stream": False},
}
VALID: dict[str, list[dict[str, Any]]] = {  # by how an address ends; ANSWER without functions, which the model lacks
    ":generateContent": [
        ANSWER,
        {"contents": CONTENTS, "generationConfig": {"responseMimeType": "application/json", "responseSchema": SCHEMA}},
        {"contents": CONTENTS, "tools": [TOOL], "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
    ],
    ":streamGenerateContent": [ANSWER],
    ":countTokens": [{"contents": CONTENTS}],
    ":embedContent": [{"content": CONTENTS[0], "taskType": "RETRIEVAL_QUERY", "outputDimensionality": 4}],
    ":batchEmbedContents": [{"requests": [{"model": "models/tiny", "content": CONTENTS[0], "title": "t"}]}],
    ":batchGenerateContent": [
        {
            "batch": {
                "displayName": "b",
                "inputConfig": {"requests": {"requests": [{"request": ANSWER, "metadata": {}}]}},
            }
        }
    ],
    "/cachedContents": [{"model": "models/tiny", "contents": CONTENTS, "ttl": "60s", "displayName": "c"}],
    "/interactions": [
        {"model": "tiny", "input": "a", "generation_config": {"max_output_tokens": 2}, "store": False},
        {"model": "tiny", "input": [{"type": "user_input", "content": [{"type": "text", "text": "a"}]}]},
    ],
    "/chat/completions": [
        CHAT,
        {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
    ],
    "/embeddings": [{"model": "tiny", "input": ["a", {"content": [{"type": "text", "text": "b"}]}], "dimensions": 4}],
    "/images/generations": [{"model": "tiny", "prompt": "a", "n": 1, "size": "32x32"}],
    "/moderations": [{"input": ["a", {"type": "text", "text": "b"}]}],
    "/fileSearchStores": [{"displayName": "s", "embeddingModel": "models/tiny"}],
}


def spoilt(value: Any, chance: random.Random) -> Any:
    """A copy with one place in it, however deep, left out, doubled, renamed or holding something odd."""
    inner = [key for key in (value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0))]
    if not inner or chance.random() < 0.2:
        return chance.choice(ODD)
    at = chance.choice(inner)
    copied = dict(value) if isinstance(value, dict) else list(value)
    way = chance.random()
    if way < 0.1:
        del copied[at]
    elif way < 0.2 and isinstance(copied, dict):
        copied[chance.choice(("x", "__proto__", str(at).upper(), f"{at}s", ""))] = copied.pop(at)
    elif way < 0.3 and isinstance(copied, list):
        copied += [copied[at]] * chance.choice((1, 50))
    else:
        copied[at] = spoilt(copied[at], chance)
    return copied


def nearly_right(document: dict[str, Any], chance: random.Random, per_body: int) -> Iterator[tuple[str, str, Any]]:
    """Valid bodies of every route that is listed for them, each with one or a few places spoilt."""
    for path, operations in document["paths"].items():
        for tail, bodies in VALID.items():
            if path.endswith(tail) and "post" in operations:
                for body in bodies:
                    for _ in range(per_body):
                        given = body
                        for _ in range(chance.choice((1, 1, 2, 4))):
                            given = spoilt(given, chance) if isinstance(given, dict) else given
                        yield "POST", path.replace("{model}", "tiny"), given


def test_bodies_that_are_nearly_right(served: Served) -> None:
    document = httpx.get(f"{served.url}/openapi.json").json()
    paths = document["paths"]
    assert all(any(path.endswith(tail) and "post" in paths[path] for path in paths) for tail in VALID)
    outcomes = outcomes_of(served, nearly_right(document, random.Random(1), 12))
    assert outcomes[400] > 200 and outcomes[200] > 20


def test_pages_of_lists_with_odd_parameters(served: Served) -> None:
    document = httpx.get(f"{served.url}/openapi.json").json()
    lists = [path for path, operations in document["paths"].items() if "get" in operations and "{" not in path]
    odd = ("-1", "0", "1e3", "9" * 40, "x", "%00", "%ff", "1;2", "")
    asked = (
        ("GET", f"{path}?pageSize={a}&pageToken={b}&alt=x&%ff", None) for path in lists for a in odd for b in odd[::3]
    )
    assert outcomes_of(served, asked)[200] > 20


def test_the_page_lists_every_route(served: Served) -> None:
    page = httpx.get(f"{served.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in httpx.get(f"{served.url}/openapi.json").json()["paths"]:
        assert f"<code>{path}</code>" in page.text
    assert "src=" not in page.text and "href=" not in page.text
