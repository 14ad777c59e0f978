"""What clients may ask for and this server does not do: the one table of what is answered 501."""

from __future__ import annotations

import re

_V = r"/v1(?:beta|alpha)?"

# Pattern of the path, and what it is called.
NOT_OFFERED: tuple[tuple[str, str], ...] = (
    (_V + r"/models/.+:predict(?:LongRunning)?", "Imagen and Veo"),
    (
        _V + r"/models/.+:(?:computeTokens|generateAnswer|generateMessage|generateText|bidiGenerateContent)",
        "this",
    ),
    (_V + r"/models/.+/operations(?:/.*)?", "operations"),
    (_V + r"/(?:corpora|ragStores)(?:/.*)?", "corpora"),
    (_V + r"/(?:tunedModels|tuningJobs)(?:/.*)?", "tuning"),
    (_V + r"/(?:auth_tokens|authTokens)(?:/.*)?", "tokens for browsers"),
    (_V + r"/(?:agents|environments|triggers|webhooks|voices|operations)(?:/.*)?", "this"),
    (r"/ws/.*", "the Live API"),
    (r"/v1beta1/.*", "Vertex AI's addresses"),
    (r"(?:/openai)?/v1/completions", "this part of OpenAI's API"),
    (
        r"(?:/openai)?/v1/(?!images/generations$|audio/transcriptions$)(?:responses|images|audio|videos)(?:/.*)?",
        "this part of OpenAI's API",
    ),
    (
        r"(?:/openai)?/v1/(?:fine_tuning|assistants|threads|vector_stores|uploads|realtime|evals)(?:/.*)?",
        "this part of OpenAI's API",
    ),
    (r"/openai/v1/(?:files|batches)(?:/.*)?", "this part of OpenAI's API"),
    (
        r"/v1beta/openai/(?!chat/completions$|embeddings$|images/generations$|audio/transcriptions$|moderations$|models).*",
        "this part of OpenAI's API",
    ),
)
# What a server keeps between requests; one of several replicas does not offer it.
KEEPING = re.compile(
    rf"(?:/upload)?{_V}/(?:files|cachedContents|batches|interactions|fileSearchStores)(?:/.*)?|/upload/.*", re.DOTALL
)
_COMPILED = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in NOT_OFFERED)


def not_offered(path: str) -> str | None:
    """What a path asks for that is known and not offered; None for any other path."""
    return next((name for pattern, name in _COMPILED if pattern.fullmatch(path)), None)
