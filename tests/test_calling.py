"""Answers that must call a function: whatever the model would say, what comes is a call that fits its schema."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from serving import Served, serving

import castor
from castor.content import FunctionCall, Message, Text
from castor.engine.engine import Engine, EngineConfig
from castor.engine.model import Model
from castor.engine.sample import SamplingConfig
from castor.tokens.gemma_calls import Mark, write_call

published = pytest.importorskip("published")
genai = pytest.importorskip("google.genai")
openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")
pytest.importorskip("transformers")
types, errors = genai.types, pytest.importorskip("google.genai.errors")

CITY = {"type": "object", "properties": {"city": {"enum": ["Bonn", "Köln"]}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "the weather of a city", "parametersJsonSchema": CITY}
NOW = {"name": "now", "description": "the time"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("checkpoint")
    published.write_checkpoint(folder)
    return castor.load(folder, device="cpu")


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema that ends by itself, of the keywords that are held."""
    kinds = ["integer", "number", "boolean", "null", "enum", "const"]
    kind = rng.choice([*kinds, "object", "array", "any", "nullable", "types"]) if depth < 3 else rng.choice(kinds)
    if kind == "object" or not depth:
        names = rng.sample(["name", "größe", "红色", "a-b", "Count", "x.y"], rng.randint(1, 4))
        fields = {name: random_schema(rng, depth + 1) for name in names}
        needed = [name for name in names if rng.random() < 0.5]
        return {"type": "object", "properties": fields, "required": needed, "additionalProperties": False}
    if kind == "array":
        least = rng.randint(0, 2)
        return {
            "type": "array",
            "items": random_schema(rng, 3),
            "minItems": least,
            "maxItems": least + rng.randint(0, 2),
        }
    if kind == "any":
        return {"anyOf": [random_schema(rng, depth + 1) for _ in range(2)]}
    if kind == "nullable":
        return {"anyOf": [{"type": "null"}, random_schema(rng, depth + 1)]}
    if kind == "types":
        return {"type": ["boolean", "null"]}
    if kind == "enum":
        return {"enum": rng.sample(["red", "зелёный", 3, 2.5, True, None, 'q"uote\n'], 3)}
    return {"const": rng.choice(["x", 4, [1, "y"], {"b": 1}])} if kind == "const" else {"type": kind}


def test_calls_are_valid_under_random_schemas(model: Model) -> None:
    engine, asked = Engine(model, EngineConfig(cache_tokens=20_000)), []
    for seed in range(40):
        schema = random_schema(random.Random(seed))
        tools = [{"name": "f", "parametersJsonSchema": schema}]
        grammar = model.renderer.call_grammar(tools, most=2)
        sampling = SamplingConfig(max_tokens=400, temperature=seed % 3, seed=seed, response_grammar=grammar)
        asked.append((schema, engine.submit([Message.user("x")], sampling, tools=tools)))
    while engine.step():
        pass
    sizes = set()
    for schema, request in asked:
        result = request.result()
        assert result.reason == "stop", schema
        assert 1 <= len(result.message.parts) <= 2
        for call in result.message.parts:
            assert isinstance(call, FunctionCall) and call.name == "f", (schema, call)
            jsonschema.validate(call.args, schema)
            sizes.add(len(call.args))
    assert len(sizes) >= 3


def test_what_fits_is_allowed_and_what_does_not_is_not(model: Model) -> None:
    """Calls as the templates write them pass the grammar of their schema token by token, and end there."""
    from castor.engine.constrain import Constrainer

    renderer = model.renderer
    schema = {
        "type": "OBJECT",
        "properties": {
            "text": {"type": "STRING", "nullable": True},
            "list": {"type": "ARRAY", "items": {"type": "INTEGER"}},
            "tree": {"$ref": "#/$defs/node"},
            "free": {"type": "OBJECT"},
        },
        "$defs": {"node": {"type": "object", "properties": {"is": {"type": "string"}, "of": {"$ref": "#/$defs/node"}}}},
    }
    constrainer = Constrainer(renderer.tokenizer, renderer.space, renderer.stop_id)

    def passes(args: dict[str, Any]) -> bool:
        grammar = renderer.call_grammar([{"name": "f", "parameters": schema}, {"name": "none"}])
        constraint = constrainer.of_grammar(grammar)
        written = [Mark("<|tool_call>"), *write_call(FunctionCall("f", args)), Mark("<tool_call|>")]
        for part in written:
            ids = [renderer.space.special(part)] if isinstance(part, Mark) else renderer.tokenizer.encode(part)
            for token_id in ids:
                if not constraint.allowed_V()[token_id]:
                    return False
                constraint.take(token_id)
        return bool(constraint.allowed_V()[renderer.stop_id])

    fitting = (
        {},
        {"text": None},
        {"text": "", "list": []},
        {"text": "a{b}: <|x|>\nü", "list": [1, -20, 0]},
        {"tree": {"is": "x", "of": {"of": {"is": "y"}}}},
        {"free": {"a": [True, None, {"b": "c"}], "d": 1.5}},
    )
    assert [passes(args) for args in fitting] == [True] * len(fitting)
    odd = ({"text": 1}, {"list": [1.5]}, {"list": ["a"]}, {"other": 1}, {"tree": {"is": 3}}, {"free": 1})
    assert [passes(args) for args in odd] == [False] * len(odd)


def test_without_must_text_may_stand_first(model: Model) -> None:
    grammar = model.renderer.call_grammar([NOW], must=False, most=1, thinks=True)
    seen = set()
    for seed in range(12):
        parts = model.generate("x", temperature=3.0, seed=seed, max_tokens=40, response_grammar=grammar).parts
        calls = [part for part in parts if isinstance(part, FunctionCall)]
        assert all(call == FunctionCall("now") for call in calls) and len(calls) <= 1
        seen.add(any(isinstance(part, Text) for part in parts))
    assert True in seen


@pytest.mark.parametrize(
    ("function", "named"),
    [
        ({"name": "f", "parameters": {"properties": {"a": {"type": "colour"}}}}, "colour"),
        ({"name": "f", "parameters": {"properties": {"a:b": {"type": "STRING"}}}}, "a:b"),
        ({"name": "f{", "parameters": {}}, "f{"),
        ({"name": "f", "parameters": {"properties": {"a": {"$ref": "http://x/y"}}}}, "leads nowhere"),
        ({"name": "f", "parameters": {"properties": {"a": {"type": "ARRAY", "maxItems": 10**9}}}}, "maxItems"),
        ({"name": "f", "parameters": {"properties": {"a": 3}}}, "no schema"),
        ({"name": "f", "parameters": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}}, "leads nowhere"),
    ],
)
def test_a_schema_that_cannot_be_held_is_named(model: Model, function: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        model.generate("x", max_tokens=5, response_grammar=model.renderer.call_grammar([function]))


@pytest.fixture(scope="module")
def served(model: Model) -> Iterator[Served]:
    with serving(model, max_tokens=80) as running:
        yield running


def test_google_s_client_gets_the_call_that_it_asks_for(served: Served) -> None:
    client = genai.Client(api_key="x", http_options={"base_url": served.url})
    tool = types.Tool(function_declarations=[WEATHER, NOW])

    def ask(mode: str, names: list[str] | None = None, **more: Any) -> Any:
        chosen = {"function_calling_config": {"mode": mode, "allowed_function_names": names}}
        config = {"tools": [tool], "tool_config": chosen, "temperature": 2.0, "seed": 3, **more}
        off = types.AutomaticFunctionCallingConfig(disable=True)
        return client.models.generate_content(
            model="tiny", contents="weather?", config={**config, "automatic_function_calling": off}
        )

    calls = ask("ANY", ["get_weather"]).function_calls
    assert calls and all(call.name == "get_weather" and call.args["city"] in ("Bonn", "Köln") for call in calls)
    assert {call.name for seed in range(8) for call in ask("ANY", seed=seed).function_calls} == {"get_weather", "now"}
    assert ask("NONE").function_calls is None and ask("AUTO").candidates
    assert ask("VALIDATED", ["now"]).candidates[0].finish_reason in ("STOP", "MAX_TOKENS")
    thoughtful = ask("ANY", thinking_config={"include_thoughts": True}, max_output_tokens=400)
    assert thoughtful.candidates[0].finish_reason == "MAX_TOKENS" or thoughtful.function_calls
    for mode, names, named in (
        ("ANY", ["fly"], "fly"),
        ("AUTO", ["now"], "ANY and VALIDATED"),
        ("SOMETIMES", None, "SOMETIMES"),
    ):
        with pytest.raises(errors.ClientError, match=named) as refused:
            ask(mode, names)
        assert refused.value.code == 400
    with pytest.raises(errors.ClientError, match="no functions are declared"):
        client.models.generate_content(
            model="tiny", contents="x", config={"tool_config": {"function_calling_config": {"mode": "ANY"}}}
        )


def test_openai_s_client_gets_the_call_that_it_asks_for(served: Served) -> None:
    client = openai.OpenAI(api_key="x", base_url=f"{served.url}/v1", max_retries=0)
    functions = [
        {"type": "function", "function": {"name": "get_weather", "parameters": CITY}},
        {"type": "function", "function": {"name": "now"}},
    ]
    messages: Any = [{"role": "user", "content": "weather?"}]

    def ask(choice: Any, **more: Any) -> Any:
        options = {"model": "tiny", "messages": messages, "tools": functions, "tool_choice": choice, "seed": 3, **more}
        return client.chat.completions.create(**{"temperature": 2.0, **options}).choices[0]

    named = {"type": "function", "function": {"name": "get_weather"}}
    choice = ask(named)
    [call] = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Bonn", "Köln")
    assert all(len(ask("required", seed=s, parallel_tool_calls=False).message.tool_calls) == 1 for s in range(4))
    some = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [functions[1]]}}
    assert {call.function.name for call in ask(some).message.tool_calls} == {"now"}
    assert ask("none").message.tool_calls is None and ask("auto").finish_reason
    for wrong in ({"type": "function", "function": {"name": "fly"}}, "sometimes", {"type": "function"}):
        with pytest.raises(openai.BadRequestError, match="tool_choice"):
            ask(wrong)


def test_an_interaction_must_call_as_well(served: Served) -> None:
    client = genai.Client(api_key="x", http_options={"base_url": served.url})
    function = {"type": "function", "name": "get_weather", "parameters": CITY}
    for choice in ("any", {"allowed_tools": {"mode": "any", "tools": ["get_weather"]}}):
        made = client.interactions.create(
            model="tiny", input="weather?", tools=[function], generation_config={"tool_choice": choice}, store=False
        )
        assert made.status == "requires_action" and made.steps[-1].type == "function_call"
