"""The Gemini API's routes for models: list, get, generateContent, streamGenerateContent, countTokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router

from castor import __version__
from castor.server.gemini_reply import as_array, as_events, chunks, details, whole_reply
from castor.server.gemini_request import Abilities, read_count, read_request
from castor.server.gemini_vectors import batch_embed_contents, embed_content
from castor.server.models import Facts, Offer
from castor.server.service import Service, Streamed, begun, deadline_of, json_of, page_of, service_of, talk, while_there
from castor.server.uploads import fetched, open_file

VERSIONS = ("v1", "v1beta", "v1alpha")
router = Router()


def about(service: Service, name: str, offer: Offer) -> dict[str, Any]:
    """A model as both kinds of clients read it: Google's fields and OpenAI's side by side."""
    facts = offer.facts
    answering, embedding = [], []
    if facts.answers:
        answering = ["generateContent", "streamGenerateContent", "countTokens", "batchGenerateContent"]
    if facts.vector_dim is not None:
        embedding = ["embedContent", "batchEmbedContents", "asyncBatchEmbedContent"]
    google = {
        "name": f"models/{name}",
        "baseModelId": offer.names[0],
        "version": __version__,
        "displayName": name,
        "description": "Served by Castor" + ("; draws pictures" if facts.can_draw else ""),
        "inputTokenLimit": facts.max_positions,
        "outputTokenLimit": facts.max_positions,
        "supportedGenerationMethods": [*answering, *embedding],
        "temperature": 0.0,
        "topP": 1.0,
        "maxTemperature": 100.0,
        "thinking": facts.knows_tools,
    }
    return {**google, "id": name, "object": "model", "created": int(service.started_s), "owned_by": "castor"}


def able(service: Service, owner: str, facts: Facts) -> Abilities:
    """What this server and one of its models can, for one client."""
    return Abilities(
        can_draw=facts.can_draw,
        knows_tools=facts.knows_tools,
        max_tokens=service.config.max_tokens,
        max_candidates=service.config.max_candidates,
        limits=service.config.limits,
        open_file=partial(open_file, service, owner),
        open_cached=partial(open_cached, service, owner),
        open_store=lambda name: service.file_search.stores.find(name, owner),
        fetch=partial(fetched, service),
        rates=service.classifier is not None,
    )


def able_of(request: Request, name: str) -> Abilities:
    """The same, for a model by its name."""
    service = service_of(request)
    return able(service, request.state.owner, service.models.find(name).facts)


def open_cached(service: Service, owner: str, name: str) -> dict[str, Any]:
    """The fields of a cached content; ApiError 404 where this client has none of that name."""
    return service.state.get("cachedContent", name.removeprefix("cachedContents/"), owner).body["fields"]


async def list_models(request: Request) -> Response:
    """GET /v1/models, to either kind of client."""
    service = service_of(request)
    models = [about(service, name, offer) for name, offer in service.models]
    return JSONResponse({"object": "list", "data": models, **page_of(request, models, "models")})


async def get_model(request: Request) -> Response:
    """GET /v1/models/NAME, to either kind of client."""
    service, name = service_of(request), request.path_params["name"]
    return JSONResponse(about(service, name, service.models.find(name)))


async def post_model(request: Request) -> Response:
    """POST /v1/models/NAME:METHOD. A name may hold colons and slashes; an unknown method is an unknown address."""
    name, _, method = request.path_params["rest"].rpartition(":")
    if method not in METHODS:
        raise HTTPException(404)
    request.state.method = method
    service_of(request).models.find(name)
    return await METHODS[method](request, name)


async def generate(request: Request, name: str) -> Response:
    """models.generateContent."""
    body = await json_of(request)
    make = partial(read_request, body, able_of(request, name), deadline_s=deadline_of(request))

    async def answer() -> dict[str, Any]:
        async with talk(service_of(request), name, make) as speaking:
            return await whole_reply(chunks(speaking, name))

    return JSONResponse(await while_there(request, answer()))


async def stream(request: Request, name: str) -> Response:
    """models.streamGenerateContent: events with alt=sse, else an array. An early error is a status."""
    body = await json_of(request)
    make = partial(read_request, body, able_of(request, name), deadline_s=deadline_of(request))

    async def pieces() -> AsyncIterator[dict[str, Any]]:
        async with talk(service_of(request), name, make) as speaking:
            async for piece in chunks(speaking, name):
                yield piece

    spoken = await begun(request, pieces())
    if request.query_params.get("alt") == "sse":
        return Streamed(as_events(spoken), media_type="text/event-stream")
    return Streamed(as_array(spoken), media_type="application/json")


async def count(request: Request, name: str) -> Response:
    """models.countTokens."""
    body = await json_of(request)
    make = partial(read_count, body, able_of(request, name))
    async with talk(service_of(request), name, lambda: replace(make(), search=None)) as asked:
        tokens = asked.prompt.tokens
    return JSONResponse({"totalTokens": sum(tokens.values()), "promptTokensDetails": details(tokens)})


async def embed_one(request: Request, name: str) -> Response:
    """models.embedContent."""
    return await embed_content(request, name, able_of(request, name))


async def embed_many(request: Request, name: str) -> Response:
    """models.batchEmbedContents."""
    return await batch_embed_contents(request, name, able_of(request, name))


METHODS: dict[str, Callable[[Request, str], Awaitable[Response]]] = {
    "generateContent": generate,
    "streamGenerateContent": stream,
    "countTokens": count,
    "embedContent": embed_one,
    "batchEmbedContents": embed_many,
}

for version in VERSIONS:
    router.add_route(f"/{version}/models", list_models, methods=["GET"])
    router.add_route(f"/{version}/models/{{name:path}}", get_model, methods=["GET"])
    router.add_route(f"/{version}/models/{{rest:path}}", post_model, methods=["POST"])
