"""Conversations and what Google's published chat template makes of them.

The texts, in `gemma_turns.json`, were made by running the template (`google-chat_template.jinja` as kept in the
repository forcepusher/gemma4_jinja, 17,187 bytes) with jinja2 in the settings of transformers' `apply_chat_template`.
`test_gemma_render.py` runs a template itself where CASTOR_GEMMA_TEMPLATE names one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from castor.calls import FunctionCall, FunctionResponse
from castor.content import Message, Text

WEATHER = {
    "name": "weather",
    "description": "Weather of a city.",
    "parameters": {
        "type": "OBJECT",
        "properties": {
            "city": {"type": "STRING", "description": "Which city"},
            "unit": {"type": "STRING", "enum": ["C", "F"], "nullable": True},
            "Days": {"type": "ARRAY", "items": {"type": "INTEGER", "description": "day"}, "description": "which days"},
            "place": {
                "type": "OBJECT",
                "description": "where",
                "properties": {"x": {"type": "NUMBER"}, "y": {"type": "NUMBER"}},
                "required": ["x", "y"],
            },
            "stops": {
                "type": "ARRAY",
                "items": {"type": "OBJECT", "properties": {"at": {"type": "STRING"}}, "required": ["at"]},
            },
            "free": {"type": "OBJECT"},
        },
        "required": ["city", "unit"],
    },
}
NOW = {"name": "now", "description": "The time."}
LOWER = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
    "response": {"type": "OBJECT", "description": "The sum"},
}
CALL = FunctionCall("weather", {"city": "Bonn", "Days": [1, 2], "at": {"y": 2.5, "x": -1}, "metric": True})
ANSWER = FunctionResponse("weather", {"sky": "blue", "high": 21.5, "rain": False, "days": ["mo", "tu"]})


@dataclass(frozen=True, kw_only=True)
class Case:
    """A conversation and how it is asked for."""

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] = ()
    thinking: bool = False
    reply: bool = True


CASES = {
    "one": Case(messages=[Message.user("  How many circles?\n")]),
    "no reply": Case(messages=[Message.user("Hello"), Message.model(" Hi there. ")], reply=False),
    "system": Case(messages=[Message.system(" Be brief. "), Message.user("Hello")]),
    "thinking": Case(messages=[Message.user("Hello")], thinking=True),
    "thinking system": Case(messages=[Message.system("Be brief."), Message.user("Hello")], thinking=True),
    "turns": Case(
        messages=[
            Message.user("Hello"),
            Message.model(Text("I should greet.", thought=True), "Hi."),
            Message.user("größer 红色?"),
            Message.model("Ja.\n\n\tcode"),
            Message.user("two\n\n", " parts "),
        ]
    ),
    "two users": Case(messages=[Message.user("a"), Message.user("b")]),
    "two models": Case(messages=[Message.user("a"), Message.model("b"), Message.model("c")]),
    "late system": Case(messages=[Message.user("a"), Message.system("b"), Message.user("c")]),
    "tools": Case(messages=[Message.user("Hello")], tools=[WEATHER, NOW, LOWER]),
    "tools system thinking": Case(
        messages=[Message.system("Be brief."), Message.user("Hello")], tools=[NOW], thinking=True
    ),
    "call open": Case(messages=[Message.user("Bonn?"), Message.model(CALL)], tools=[NOW]),
    "call open, no reply": Case(messages=[Message.user("Bonn?"), Message.model(CALL)], reply=False),
    "answered": Case(messages=[Message.user("Bonn?"), Message.model(CALL), Message.user(ANSWER)]),
    "answered twice": Case(
        messages=[
            Message.user("Bonn?"),
            Message.model(Text("I look it up.", thought=True), CALL, FunctionCall("now")),
            Message.user(ANSWER, FunctionResponse("now", {"value": -3, "items": []})),
        ],
        thinking=True,
    ),
    "went on": Case(
        messages=[
            Message.user("Bonn?"),
            Message.model(Text("Not shown any more.", thought=True), CALL),
            Message.user(ANSWER),
            Message.model("Blue."),
            Message.user("And now?"),
            Message.model(Text("Shown.", thought=True), FunctionCall("now")),
            Message.user(FunctionResponse("now", {"time": "12:00"})),
            Message.model(FunctionCall("now", {"zone": "CET"})),
            Message.user(FunctionResponse("now", {"time": "13:00"})),
        ]
    ),
    "text and call": Case(messages=[Message.user("Bonn?"), Message.model("Let me see.", CALL)]),
    "text, call, answer": Case(
        messages=[Message.user("Bonn?"), Message.model("Let me see.", CALL), Message.user(ANSWER)]
    ),
}


def template_input(case: Case) -> dict[str, Any]:
    """What the template takes for a case."""
    messages: list[dict[str, Any]] = []
    for message in case.messages:
        texts = [part for part in message.parts if isinstance(part, Text)]
        calls = [part for part in message.parts if isinstance(part, FunctionCall)]
        answers = [part for part in message.parts if isinstance(part, FunctionResponse)]
        if answers:
            responses = [{"name": part.name, "response": dict(part.response)} for part in answers]
            messages[-1].setdefault("tool_responses", []).extend(responses)
            continue
        role = "assistant" if message.role == "model" else message.role
        said = [part.text for part in texts if not part.thought]
        content = [{"type": "text", "text": text} for text in said] if len(said) != 1 else said[0]
        entry: dict[str, Any] = {"role": role, "content": content}
        if thoughts := [part.text for part in texts if part.thought]:
            entry["reasoning_content"] = "\n".join(thoughts)
        if calls:
            entry["tool_calls"] = [{"function": {"name": c.name, "arguments": dict(c.args)}} for c in calls]
        messages.append(entry)
    tools = [{"type": "function", "function": tool} for tool in case.tools]
    return {
        "messages": messages,
        "tools": tools or None,
        "enable_thinking": case.thinking,
        "add_generation_prompt": case.reply,
        "bos_token": "<bos>",
    }


def render_template(template: str, case: Case) -> str:
    """The template's text for a case, in the settings of transformers."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(**template_input(case))
