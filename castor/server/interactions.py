"""The Interactions API: create (whole or as a stream), get and delete, and going on from an earlier one.

A request is turned into one of generateContent and its answer into steps, so that both APIs give the same answers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router

from castor.server.answering import End
from castor.server.errors import ApiError
from castor.server.gemini import VERSIONS, able_of
from castor.server.gemini_reply import is_wanted
from castor.server.gemini_request import read_request
from castor.server.grounding import citations
from castor.server.interaction_forms import content_of, contents_of, request_of, usage_of
from castor.server.service import Service, Streamed, Talk, deadline_of, json_of, model_of, service_of, talk, while_there
from castor.server.state import Record, time_text

KIND = "interaction"
router = Router()


@dataclasses.dataclass(kw_only=True)
class Course:
    """One interaction on its way: what it goes on from, and the steps so far."""

    id: str
    model: str
    created_s: float
    body: dict[str, Any]  # of the request
    history: list[dict[str, Any]]  # contents up to the answer
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    status: str = "in_progress"
    usage: dict[str, Any] = dataclasses.field(default_factory=dict)

    def about(self, now_s: float, *, brief: bool = False) -> dict[str, Any]:
        """The Interaction; a brief one is without its steps."""
        fields = {
            "id": self.id,
            "object": "interaction",
            "role": "model",
            "model": self.model,
            "status": self.status,
            "created": time_text(self.created_s),
            "updated": time_text(now_s),
        }
        if (before := self.body.get("previous_interaction_id")) is not None:
            fields["previous_interaction_id"] = before
        more = {} if brief else {"steps": self.steps}
        return {**fields, **more, **({"usage": self.usage} if self.usage else {})}


async def create(request: Request) -> Response:
    """POST /v1beta/interactions."""
    try:
        return await _create(request)
    except ApiError as error:
        return _refusal(error)


async def _create(request: Request) -> Response:
    service, body = service_of(request), await json_of(request)
    name = model_of(body)
    abilities = able_of(request, name)
    course = Course(
        id=f"int_{secrets.token_hex(12)}", model=name, created_s=service.state.now_s(), body=body, history=[]
    )
    before = await asyncio.to_thread(_before, service, request.state.owner, body)
    asked = request_of(body, before)
    course.history = asked["contents"]
    make = partial(read_request, asked, abilities, deadline_s=deadline_of(request))
    events = _events(service, request.state.owner, course, partial(talk, service, name, make))
    if body.get("stream") is True:
        first = await anext(events)  # a refusal is a status, up to here
        return Streamed(_lines(first, events), media_type="text/event-stream")

    async def whole() -> dict[str, Any]:
        async for _ in events:
            pass
        return course.about(service.state.now_s())

    return JSONResponse(await while_there(request, whole()))


def _before(service: Service, owner: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The contents of the interaction that this one goes on from."""
    name = body.get("previous_interaction_id")
    if name is None:
        return []
    if not isinstance(name, str):
        raise ApiError(400, "previous_interaction_id must be a text", field="previous_interaction_id")
    return _found(service, owner, name).body["contents"]


def _found(service: Service, owner: str, name: str) -> Record:
    return service.state.get(KIND, name, owner)


async def _events(service: Service, owner: str, course: Course, talking: Any) -> AsyncIterator[dict[str, Any]]:
    """The events of an interaction; once they are over, it is complete and kept."""
    async with talking() as speaking:
        yield {"event_type": "interaction.created", "interaction": course.about(service.state.now_s(), brief=True)}
        async for event in _steps(course, speaking):
            yield event
        course.usage = usage_of(speaking)
    if course.body.get("store", True) is not False:
        await asyncio.to_thread(_keep, service, owner, course)
    yield {"event_type": "interaction.completed", "interaction": course.about(service.state.now_s(), brief=True)}


def _keep(service: Service, owner: str, course: Course) -> None:
    contents = [*course.history, *contents_of(course.steps)]
    kept = {"contents": contents, "about": course.about(service.state.now_s())}
    lasts_s = 3600 * service.config.files_hours
    service.state.add(KIND, owner, kept, lasts_s, record_id=course.id)


async def _steps(course: Course, speaking: Talk) -> AsyncIterator[dict[str, Any]]:
    """Start, deltas and stop of every step; a step is a stretch of output, of thoughts, or a call of a function."""
    course.status = "completed"
    async for _, item in speaking.items():
        if isinstance(item, End):
            course.status = "incomplete" if item.reason == "length" else course.status
            continue
        if not is_wanted(speaking, item):
            continue
        kind, started, delta = content_of(item)
        if not course.steps or course.steps[-1]["type"] != kind or kind == "function_call":
            for event in _stop(course, speaking):
                yield event
            course.steps.append(started)
            yield {"event_type": "step.start", "index": len(course.steps) - 1, "step": json.loads(json.dumps(started))}
        if kind == "function_call":
            course.status = "requires_action"
        _add(course.steps[-1], delta)
        yield {"event_type": "step.delta", "index": len(course.steps) - 1, "delta": delta}
    for event in _stop(course, speaking):
        yield event


def _stop(course: Course, speaking: Talk) -> Iterator[dict[str, Any]]:
    """The end of the last step, and before it what its text rests on, where files were searched."""
    if not course.steps:
        return
    step, at = course.steps[-1], len(course.steps) - 1
    last = step["content"][-1] if step["type"] == "model_output" and step["content"] else {}
    if last.get("type") == "text" and (cited := citations(speaking.query.sources, last["text"])):
        last["annotations"] = cited
        delta = {"type": "text_annotation_delta", "annotations": cited}
        yield {"event_type": "step.delta", "index": at, "delta": delta}
    yield {"event_type": "step.stop", "index": at}


def _add(step: dict[str, Any], delta: dict[str, Any]) -> None:
    """What a delta adds to its step; neighbouring texts are joined."""
    if step["type"] == "function_call":
        step["arguments"] = json.loads(delta["arguments"])
        return
    content = delta["content"] if step["type"] == "thought" else delta
    held = step["summary" if step["type"] == "thought" else "content"]
    if content["type"] == "text" and held and held[-1]["type"] == "text":
        held[-1]["text"] += content["text"]
    else:
        held.append(dict(content))


async def _lines(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """Server-sent events, with their names as this API has them."""
    yield _line(first)
    try:
        async for event in rest:
            yield _line(event)
    except ApiError as error:
        yield _line({"event_type": "error", "error": _error(error)})


def _line(event: dict[str, Any]) -> bytes:
    return f"event: {event['event_type']}\ndata: {json.dumps(event)}\n\n".encode()


def _error(error: ApiError) -> dict[str, Any]:
    codes = {400: "invalid_request", 404: "not_found", 429: "rate_limit_exceeded", 504: "deadline_exceeded"}
    return {"code": codes.get(error.status, "internal_error"), "message": error.message[:800]}


def _refusal(error: ApiError) -> Response:
    return JSONResponse({"error": _error(error)}, error.status, headers=error.headers)


async def get(request: Request) -> Response:
    """GET /v1beta/interactions/ID."""
    try:
        if request.query_params.get("stream", "").lower() == "true":
            raise ApiError(501, "an interaction that is over cannot be streamed again")
        found = _found(service_of(request), request.state.owner, request.path_params["id"])
    except ApiError as error:
        return _refusal(error)
    return JSONResponse(found.body["about"])


async def delete(request: Request) -> Response:
    """DELETE /v1beta/interactions/ID."""
    try:
        service = service_of(request)
        service.state.remove(_found(service, request.state.owner, request.path_params["id"]))
    except ApiError as error:
        return _refusal(error)
    return JSONResponse({})


for version in VERSIONS:
    router.add_route(f"/{version}/interactions", create, methods=["POST"])
    router.add_route(f"/{version}/interactions/{{id}}", get, methods=["GET"])
    router.add_route(f"/{version}/interactions/{{id}}", delete, methods=["DELETE"])
