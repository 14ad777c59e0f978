"""A published checkpoint behind the server: functions and thoughts through both clients."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from serving import Served, scripted, serving

import castor
from castor.content import FunctionCall, FunctionResponse, Message, Part, Text

published = pytest.importorskip("published")
genai = pytest.importorskip("google.genai")
openai = pytest.importorskip("openai")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "the weather of a city", "parametersJsonSchema": SCHEMA}
CALL = FunctionCall("get_weather", {"city": "Paris"})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("checkpoint")
    published.write_checkpoint(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("castor.engine.forward.can_decode", lambda decoder: False)  # `says` speaks for the plain step
        with serving(castor.load(folder, device="cpu"), max_tokens=120) as running:
            yield running


@pytest.fixture()
def says(served: Served) -> Iterator[Any]:
    """Makes the model say these parts next: an untrained one would never call a function by itself."""
    with scripted(served.model) as script:
        yield script


def num_tokens(served: Served, messages: Sequence[Message], **more: Any) -> int:
    return len(served.model.renderer.encode(messages, reply=True, **more))


def said_tokens(served: Served, *parts: Part) -> int:
    """Tokens of an answer without what ends it."""
    sequence = served.model.renderer.encode([Message.user("x"), Message("model", parts)])
    return int(sequence.is_target_T.sum()) - 1


def test_functions_through_google_s_client(served: Served, google: Any, says: Any) -> None:
    types = genai.types
    declaration = types.FunctionDeclaration(
        name="get_weather", description="the weather of a city", parameters_json_schema=SCHEMA
    )
    config = {"tools": [types.Tool(function_declarations=[declaration])]}
    says(CALL)
    reply = google.models.generate_content(model="tiny", contents="weather in Paris?", config=config)
    [call] = reply.function_calls
    assert (call.name, call.args) == ("get_weather", {"city": "Paris"})
    asked = Message.user("weather in Paris?")
    assert reply.usage_metadata.prompt_token_count == num_tokens(served, [asked], tools=[WEATHER])
    says(Text("sunny"))
    result = types.Part.from_function_response(name="get_weather", response={"result": "20C"})
    contents = [
        types.UserContent("weather in Paris?"),
        reply.candidates[0].content,
        types.Content(role="user", parts=[result]),
    ]
    reply = google.models.generate_content(model="tiny", contents=contents, config=config)
    assert reply.text == "sunny"
    told = [asked, Message.model(CALL), Message.user(FunctionResponse("get_weather", {"result": "20C"}))]
    assert reply.usage_metadata.prompt_token_count == num_tokens(served, told, tools=[WEATHER])
    none = {**config, "tool_config": {"function_calling_config": {"mode": "NONE"}}}
    reply = google.models.generate_content(model="tiny", contents="weather in Paris?", config=none)
    assert reply.usage_metadata.prompt_token_count == num_tokens(served, [asked])


def test_functions_through_openai_s_client(served: Served, client: Any, says: Any) -> None:
    function = {"name": "get_weather", "description": "the weather of a city", "parameters": SCHEMA, "strict": True}
    options = {"model": "tiny", "tools": [{"type": "function", "function": function}]}
    messages: list[Any] = [{"role": "user", "content": "weather in Paris?"}]
    says(CALL)
    choice = client.chat.completions.create(**options, messages=messages).choices[0]
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    says(CALL)
    pieces = list(client.chat.completions.create(**options, messages=messages, stream=True))
    [streamed] = [c for piece in pieces for c in piece.choices[0].delta.tool_calls or ()]
    assert (streamed.index, streamed.function.arguments) == (0, call.function.arguments)
    assert pieces[-1].choices[0].finish_reason == "tool_calls"
    says(Text("sunny"))
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"result": "20C"}'}
    messages += [choice.message.model_dump(exclude_none=True), result]
    reply = client.chat.completions.create(**options, messages=messages)
    assert reply.choices[0].message.content == "sunny"
    told = [
        Message.user("weather in Paris?"),
        Message.model(CALL),
        Message.user(FunctionResponse("get_weather", {"result": "20C"})),
    ]
    assert reply.usage.prompt_tokens == num_tokens(served, told, tools=[WEATHER])


def test_thoughts_are_shown_where_asked_for(served: Served, google: Any, client: Any, says: Any) -> None:
    asked = [Message.user("why?")]
    for shows in (False, True):
        says(Text("let me see", thought=True), CALL)  # a thought is told again only before a call
        config = {"thinking_config": {"include_thoughts": shows}}
        reply = google.models.generate_content(model="tiny", contents="why?", config=config)
        thoughts = [part.text for part in reply.parts if part.thought]
        assert thoughts == (["let me see"] if shows else [])
        assert reply.usage_metadata.prompt_token_count == num_tokens(served, asked, thinking=True)
        parts = [Text("let me see", thought=True), CALL]
        both, call = (said_tokens(served, *some) for some in (parts, parts[1:]))
        usage = reply.usage_metadata
        assert (usage.thoughts_token_count, usage.candidates_token_count) == (both - call, call)
    config = {"thinking_config": {"thinking_budget": 0}}
    counted = google.models.generate_content(model="tiny", contents="why?", config=config).usage_metadata
    assert counted.prompt_token_count == num_tokens(served, asked)


def test_such_a_model_draws_nothing(google: Any) -> None:
    with pytest.raises(genai.errors.ClientError, match="draws no pictures"):
        google.models.generate_content(model="tiny", contents="x", config={"response_modalities": ["IMAGE"]})
