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


def test_every_route_refuses_in_form(served: Served) -> None:
    document = httpx.get(f"{served.url}/openapi.json").json()
    assert document["openapi"].startswith("3.1") and len(document["paths"]) > 60
    outcomes: Counter[int] = Counter()
    with httpx.Client(base_url=served.url, timeout=60) as http:
        for method, path, body in requests(document, random.Random(0), 8):
            reply = http.request(method, path, content=json.dumps(body), headers={"content-type": "application/json"})
            outcomes[reply.status_code] += 1
            case = f"{method} {path} {json.dumps(body)[:200]}: {reply.status_code} {reply.text[:200]}"
            assert reply.status_code in MAY_END_WELL | REFUSED, case
            if reply.status_code in REFUSED and path not in ("/readyz", "/healthz"):
                error = reply.json()["error"]
                assert error["message"] and ({"status"} | {"type"} | {"code"}) & set(error), case
    assert outcomes[400] > 50 and outcomes[200] > 20
    assert httpx.get(f"{served.url}/readyz").json() == {"status": "ready"}
    print(dict(outcomes))


def test_the_page_lists_every_route(served: Served) -> None:
    page = httpx.get(f"{served.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in httpx.get(f"{served.url}/openapi.json").json()["paths"]:
        assert f"<code>{path}</code>" in page.text
    assert "src=" not in page.text and "href=" not in page.text
