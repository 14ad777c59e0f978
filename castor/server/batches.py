"""Batches: many requests that wait in the server's state and are answered beside those of people, over restarts.

Every answer is kept as soon as it is there. A server that ends in the midst of a batch goes on with it when it starts
again, with the requests that have no answer yet.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from functools import partial
from typing import Any

from castor.server.bodies import parse_object
from castor.server.errors import ApiError, google_error
from castor.server.gemini import able
from castor.server.gemini_reply import chunks, whole_reply
from castor.server.gemini_request import Abilities, read_request
from castor.server.gemini_vectors import read_wish
from castor.server.service import Service, begin
from castor.server.state import Record, time_text
from castor.server.vectors import Wish, embed

KIND = "batch"
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
AT_ONCE = 4  # requests of batches that are under way
BUSY = (429, 503)  # such a request is tried again
LASTS_S = 30 * 24 * 3600.0


class Batches:
    """The queue of one server. Its methods belong to one event loop."""

    def __init__(self, service: Service) -> None:
        self._service, self._news = service, asyncio.Event()

    def add(self, owner: str, body: dict[str, Any], rows: list[tuple[str, str]]) -> Record:
        """A new batch with its requests and their keys, each JSON; from any thread, and `wake` begins with it."""
        return self._service.state.add(KIND, owner, {**body, "state": "PENDING", "count": len(rows)}, LASTS_S, rows)

    def wake(self) -> None:
        """There may be something to do."""
        self._news.set()

    async def run(self) -> None:
        """Answer batches, the oldest first, until cancelled."""
        while True:
            self._news.clear()
            while (record := await asyncio.to_thread(self._oldest)) is not None:
                await self._answer(record)
            await self._news.wait()

    def _oldest(self) -> Record | None:
        self._service.state.purge()
        found = self._service.state.run("SELECT id FROM records WHERE kind = ? ORDER BY created_s, id", KIND)
        records = (self._service.state.get(KIND, row[0], None) for row in found)
        return next((record for record in records if record.body["state"] not in ENDED), None)

    async def _answer(self, record: Record) -> None:
        state = self._service.state
        self._become(record.id, "RUNNING", ("PENDING", "RUNNING"))
        statement = "SELECT number, request FROM batch_rows WHERE batch = ? AND answer IS NULL ORDER BY number"
        rows = iter(await asyncio.to_thread(state.run, statement, record.id))

        async def work() -> None:
            for number, request in rows:
                if not self._goes_on(record.id):
                    return
                answer = json.dumps(await self._one(record, request))
                update = "UPDATE batch_rows SET answer = ? WHERE batch = ? AND number = ?"
                await asyncio.to_thread(state.run, update, answer, record.id, number)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
        if self._goes_on(record.id):
            await asyncio.to_thread(self._finish, record)

    def _goes_on(self, batch: str) -> bool:
        found = self._service.state.run("SELECT body FROM records WHERE kind = ? AND id = ?", KIND, batch)
        return bool(found) and json.loads(found[0][0])["state"] == "RUNNING"

    def _become(self, batch: str, name: str, before: tuple[str, ...], **more: str) -> None:
        """A batch that is in one of the states `before` enters another; others, and one that is gone, do not."""
        fields = {"state": name, **more}
        sets = "".join(f", '$.{key}', ?" for key in fields)
        places = ", ".join("?" * len(before))
        where = f"kind = ? AND id = ? AND json_extract(body, '$.state') IN ({places})"
        statement = f"UPDATE records SET body = json_set(body{sets}), updated_s = ? WHERE {where}"
        now_s = self._service.state.now_s()
        self._service.state.run(statement, *fields.values(), now_s, KIND, batch, *before)

    async def _one(self, record: Record, request: str) -> dict[str, Any]:
        """{"response": ...} or {"error": ...} of one request; while the server is full, it is tried again."""
        while True:
            try:
                return {"response": await self._response(record, request)}
            except ApiError as error:
                if error.status not in BUSY or not self._goes_on(record.id):
                    told = google_error(error)["error"]
                    return {"error": {key: told[key] for key in ("code", "message", "status")}}
                await asyncio.sleep(min(30.0, error.retry_after_s or 1.0))

    async def _response(self, record: Record, request: str) -> dict[str, Any]:
        service, name = self._service, record.body["model"]
        abilities = able(service, record.owner, service.models.find(name).facts)
        if record.body["embeds"]:
            made = await embed(service, name, lambda: [_wish(request, name, abilities)])
            values = made.values[0].tolist()
            return {"embedding": {"values": values}, "tokenCount": str(sum(made.total.values()))}
        async with service.models.use(name) as answerer:
            talk = await begin(service, answerer, partial(_query, request, abilities))
            return await whole_reply(chunks(talk, name))

    def _finish(self, record: Record) -> None:
        """All requests have their answers; of a batch from a file, they become a file."""
        more = {}
        if record.body["from_file"]:
            lines = []
            for key, answer in self.answers(record):
                lines.append(json.dumps({**({} if key is None else {"key": key}), **answer}).encode() + b"\n")
            try:
                more["responses_file"] = self._keep(record, b"".join(lines))
            except ApiError as error:
                self._become(record.id, "FAILED", ("RUNNING",), error=error.message)
                return
        self._become(record.id, "SUCCEEDED", ("RUNNING",), **more)

    def _keep(self, record: Record, content: bytes) -> str:
        files, name = self._service.files, f"files/batch-{record.id}"
        kind = "application/jsonl"
        secret = files.begin(record.owner, name=name, display_name=record.id, mime_type=kind, size_bytes=len(content))
        files.append(files.upload(secret), content)
        files.finish(secret)
        return name

    def answers(self, record: Record) -> list[tuple[Any, dict[str, Any]]]:
        """Key and answer of every request that has one, in their order."""
        statement = "SELECT key, answer FROM batch_rows WHERE batch = ? AND answer IS NOT NULL ORDER BY number"
        return [(json.loads(key), json.loads(answer)) for key, answer in self._service.state.run(statement, record.id)]

    def cancel(self, record: Record) -> None:
        """No further requests of it are answered."""
        self._become(record.id, "CANCELLED", ("PENDING", "RUNNING"))

    def about(self, record: Record) -> dict[str, Any]:
        """The Gemini API's operation for a batch."""
        body = record.body
        count = "SELECT COUNT(*), SUM(answer LIKE '{\"error\"%') FROM batch_rows WHERE batch = ? AND answer IS NOT NULL"
        [(answered, failed)] = self._service.state.run(count, record.id)
        kind = "EmbedContentBatch" if body["embeds"] else "GenerateContentBatch"
        metadata = {
            "@type": f"type.googleapis.com/google.ai.generativelanguage.v1main.{kind}",
            "name": f"batches/{record.id}",
            "model": f"models/{body['model']}",
            "displayName": body["display_name"],
            "state": f"BATCH_STATE_{body['state']}",
            "createTime": time_text(record.created_s),
            "updateTime": time_text(record.updated_s),
            "batchStats": {
                "requestCount": str(body["count"]),
                "successfulRequestCount": str(answered - (failed or 0)),
                "failedRequestCount": str(failed or 0),
                "pendingRequestCount": str(body["count"] - answered),
            },
        }
        operation: dict[str, Any] = {"name": f"batches/{record.id}", "metadata": metadata}
        if body["state"] in ENDED:
            metadata["endTime"] = metadata["updateTime"]
            operation["done"] = True
        if body["state"] == "SUCCEEDED":
            metadata["output"] = operation["response"] = self._output(record)
        elif "error" in body:
            operation["error"] = {"code": 13, "message": body["error"]}
        return operation

    def _output(self, record: Record) -> dict[str, Any]:
        body = record.body
        if "responses_file" in body:
            return {"responsesFile": body["responses_file"]}
        answers = self.answers(record)
        listed = [{**answer, **({} if key is None else {"metadata": key})} for key, answer in answers]
        return {"inlinedEmbedContentResponses" if body["embeds"] else "inlinedResponses": {"inlinedResponses": listed}}


def _query(request: str, able: Abilities) -> Any:
    return dataclasses.replace(read_request(parse_object(request.encode()), able), priority=-1)


def _wish(request: str, name: str, able: Abilities) -> Wish:
    return read_wish(parse_object(request.encode()), "", name, able)
