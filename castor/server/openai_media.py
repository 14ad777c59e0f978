"""OpenAI's pictures and transcripts, answered by the model, and its moderations, answered by the classifier."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Router

from castor.content import Audio, Image, Message, Text
from castor.engine.sample import SamplingConfig
from castor.server.answering import Query
from castor.server.bodies import number, read_body, whole
from castor.server.config import ServerConfig
from castor.server.errors import ApiError
from castor.server.openai_request import MOUNTS, read_fields
from castor.server.service import Talk, json_of, model_of, service_of, talk, while_there

HINTS = {  # what cannot be chosen here, with the values that choose nothing
    "quality": ("auto", "low", "medium", "high", "standard", "hd"),
    "style": ("vivid", "natural"),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "output_format": ("png",),
    "output_compression": (100,),
    "response_format": ("b64_json",),
    "stream": (False,),
    "partial_images": (0,),
}
DRAW_KEYS = {"model", "prompt", "n", "size", "user", "seed", "temperature", *HINTS}
LARGEST_PX = 2048
SPEECH_KEYS = {"model", "file", "language", "prompt", "response_format", "temperature", "stream"}
# How the training data asks for a transcript, by language.
ASKING = {
    "en": "Write down what is said.",
    "zh": "写下听到的话。",
    "es": "Escribe lo que se dice.",
    "fr": "Écris ce qui est dit.",
    "de": "Schreib auf, was gesagt wird.",
    "hi": "जो कहा गया है वह लिखो।",
}
MODERATED = {  # OpenAI's categories that the classifier's are
    "harassment": "harassment",
    "hate": "hate",
    "sexual": "sexual",
    "self-harm": "self-harm",
    "violence": "violence",
    "illicit": "illicit",
}
UNSEEN = (  # those that it does not tell apart; their score is 0
    *("harassment/threatening", "hate/threatening", "illicit/violent", "self-harm/intent", "self-harm/instructions"),
    *("sexual/minors", "violence/graphic"),
)
router = Router()


async def draw(request: Request) -> Response:
    """POST /v1/images/generations: pictures as PNG in base64, at the size that is asked for."""
    service, body = service_of(request), await json_of(request)
    name = model_of(body)
    if not service.models.find(name).facts.can_draw:
        raise ApiError(400, f"{name} draws no pictures", field="model")
    size, query = _drawing(body, service.config)

    async def answer() -> list[str]:
        async with talk(service, name, lambda: query) as speaking:
            drawn = await _pictures(speaking)
        return [await asyncio.to_thread(_encoded, picture, size) for picture in drawn]

    data = [{"b64_json": text} for text in await while_there(request, answer())]
    return JSONResponse({"created": int(time.time()), "data": data, "output_format": "png"})


def _drawing(body: Mapping[str, Any], config: ServerConfig) -> tuple[tuple[int, int] | None, Query]:
    fields = read_fields(body, DRAW_KEYS, HINTS)
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise ApiError(400, "prompt must be a text", field="prompt")
    count = whole(fields.get("n", 1), "n", 1, config.max_candidates)
    seed = whole(fields.get("seed", secrets.randbits(31)), "seed", -(2**63), 2**62)
    temperature = number(fields.get("temperature", 0), "temperature", 0, 100)  # of words; pictures have their own
    sampling = SamplingConfig(max_tokens=config.max_tokens, temperature=temperature)
    samplings = tuple(dataclasses.replace(sampling, seed=seed + at) for at in range(count))
    query = Query(messages=(Message.user(prompt),), samplings=samplings, writes=False)
    return _size(fields.get("size", "auto")), query


def _size(value: object) -> tuple[int, int] | None:
    if value == "auto":
        return None
    sides = value.split("x") if isinstance(value, str) else []
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and 1 <= len(side) <= 4 for side in sides):
        raise ApiError(400, f"size is auto or WIDTHxHEIGHT, not {value!r:.40}", field="size")
    width_px, height_px = map(int, sides)
    if not 1 <= width_px <= LARGEST_PX or not 1 <= height_px <= LARGEST_PX:
        raise ApiError(400, f"size: a side has 1 to {LARGEST_PX} pixels", field="size")
    return width_px, height_px


async def _pictures(speaking: Talk) -> list[Image]:
    """The first picture of every candidate, with which its answer begins."""
    found: dict[int, Image] = {}
    async for index, item in speaking.items():
        if isinstance(item, Image):
            found.setdefault(index, item)
            speaking.stopped.add(index)
    if len(found) < len(speaking.query.samplings):
        raise ApiError(503, "a picture was begun, but there was no room to finish it; try again")
    return [found[index] for index in sorted(found)]


def _encoded(picture: Image, size: tuple[int, int] | None) -> str:
    if size is not None:
        from PIL import Image as PillowImage

        scaled = PillowImage.fromarray(picture.pixels()).resize(size, PillowImage.Resampling.BICUBIC)
        picture = Image.from_pixels(np.asarray(scaled))
    return base64.b64encode(picture.data).decode()


async def transcribe(request: Request) -> Response:
    """POST /v1/audio/transcriptions: the model is asked to write down what is said."""
    service = service_of(request)
    form = await _form(request)
    fields = {key: value for key, value in form.items() if not isinstance(value, UploadFile)}
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise ApiError(400, "file must be a recording", field="file")
    for key in sorted(set(form) - SPEECH_KEYS):
        raise ApiError(400, f"unknown argument: {key[:100]!r}", field=key[:100])
    form_of_reply = fields.get("response_format", "json")
    if form_of_reply not in ("json", "text"):
        message = f"response_format={form_of_reply!r:.40} is not offered here; json and text are"
        raise ApiError(400, message, field="response_format")
    if fields.get("stream", "false") != "false":
        raise ApiError(400, "stream is not offered here", field="stream")
    name, content = model_of(fields), await file.read()
    make = partial(_speech, content, file.filename or "file", fields, service.config)

    async def answer() -> tuple[str, dict[str, int]]:
        async with talk(service, name, make) as speaking:
            said = [item.text async for _, item in speaking.items() if isinstance(item, Text) and not item.thought]
            num_prompt, num_said = sum(speaking.prompt.tokens.values()), sum(speaking.said.values())
        usage = {"input_tokens": num_prompt, "output_tokens": num_said, "total_tokens": num_prompt + num_said}
        return "".join(said).strip(), usage

    text, usage = await while_there(request, answer())
    if form_of_reply == "text":
        return PlainTextResponse(text + "\n")
    return JSONResponse({"text": text, "usage": {"type": "tokens", **usage}})


async def _form(request: Request) -> FormData:
    """The fields and the file of a form, within the limits of a body."""
    config = service_of(request).config
    body = await read_body(request, config.max_body_bytes, config.body_timeout_s)

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "a recording comes as multipart/form-data")
    try:
        parser = MultiPartParser(request.headers, pieces(), max_files=1, max_fields=20)  # ty: ignore[invalid-argument-type]
        return await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise ApiError(400, f"the form cannot be read: {error}"[:300]) from None


def _speech(content: bytes, file_name: str, fields: Mapping[str, Any], config: ServerConfig) -> Query:
    language = fields.get("language") or "en"
    if language not in ASKING:
        raise ApiError(400, f"language={language!r:.40} is not one of {', '.join(ASKING)}", field="language")
    asked = fields.get("prompt") or ASKING[language]
    temperature = number(fields.get("temperature") or 0, "temperature", 0, 100)
    sampling = SamplingConfig(max_tokens=config.max_tokens, temperature=temperature, seed=secrets.randbits(31))
    recording = Audio(content, name=file_name[:100], limits=config.limits)
    return Query(messages=(Message.user(recording, Text(asked)),), samplings=(sampling,), draws=False)


async def moderate(request: Request) -> Response:
    """POST /v1/moderations: texts rated by the small classifier; see `castor.server.safety` for what it cannot see."""
    service, body = service_of(request), await json_of(request)
    if service.classifier is None:
        raise ApiError(501, "moderations: this server rates no texts")
    for key in sorted(set(body) - {"model", "input"}):
        raise ApiError(400, f"unknown argument: {key[:100]!r}", field=key[:100])
    texts = _texts(body.get("input"))
    results = [_result(await asyncio.to_thread(service.classifier.scores, text)) for text in texts]
    return JSONResponse({"id": f"modr-{secrets.token_urlsafe(12)}", "model": "castor-lexicon", "results": results})


def _texts(value: object) -> list[str]:
    """Texts that get a result each; content parts make one together."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not 1 <= len(items) <= 1000:
        raise ApiError(400, "input must be a text, or a list of 1 to 1000 texts or content parts", field="input")
    if all(isinstance(item, str) for item in items):
        return items
    parts = []
    for at, item in enumerate(items):
        if not isinstance(item, Mapping) or item.get("type") != "text" or not isinstance(item.get("text"), str):
            raise ApiError(400, f"input[{at}]: texts are rated here, and nothing else", field=f"input[{at}]")
        parts.append(item["text"])
    return ["\n".join(parts)]


def _result(scores: Mapping[str, float]) -> dict[str, Any]:
    by_name = {name: scores[category] for name, category in MODERATED.items()} | dict.fromkeys(UNSEEN, 0.0)
    flags = {name: score >= 0.5 for name, score in by_name.items()}
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": by_name,
        "category_applied_input_types": {name: ["text"] if name in MODERATED else [] for name in by_name},
    }


for mount in MOUNTS:
    router.add_route(f"{mount}/images/generations", draw, methods=["POST"])
    router.add_route(f"{mount}/audio/transcriptions", transcribe, methods=["POST"])
    router.add_route(f"{mount}/moderations", moderate, methods=["POST"])
