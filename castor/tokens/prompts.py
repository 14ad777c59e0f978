"""What is said before a text that becomes a vector: the forms that Gemini Embedding 2 and EmbeddingGemma 2 publish.

    task: search result | query: TEXT         what is looked for, by what it is looked for for
    title: TITLE | text: TEXT                 what is found; "none" where there is no title

They are for texts alone. Media carry none, and neither do texts that are compared with media.
"""

from __future__ import annotations

USES = (
    "search result",
    "question answering",
    "fact checking",
    "code retrieval",
    "classification",
    "clustering",
    "sentence similarity",
)
DOCUMENT = "Retrieval-document"


def query_prompt(use: str) -> str:
    """What stands before a query; ValueError where `use` is not one of USES."""
    if use not in USES:
        raise ValueError(f"use={use!r} is not one of {', '.join(USES)}")
    return f"task: {use} | query: "


def document_prompt(title: str = "") -> str:
    """What stands before a document."""
    return f"title: {title or 'none'} | text: "


# By the names that the published checkpoints give their prompts (config_sentence_transformers.json).
PROMPTS: dict[str, str] = {
    "query": query_prompt("search result"),
    "document": document_prompt(),
    "Retrieval-query": query_prompt("search result"),
    DOCUMENT: document_prompt(),
    "Reranking": query_prompt("search result"),
    "BitextMining": query_prompt("search result"),
    "QuestionAnswering": query_prompt("question answering"),
    "FactChecking": query_prompt("fact checking"),
    "InstructionRetrieval": query_prompt("code retrieval"),
    "Classification": query_prompt("classification"),
    "MultilabelClassification": query_prompt("classification"),
    "Clustering": query_prompt("clustering"),
    "PairClassification": query_prompt("sentence similarity"),
    "STS": query_prompt("sentence similarity"),
}


def prompt_of(task: str, prompts: dict[str, str] = PROMPTS) -> str:
    """The words before a text for a task by name; ValueError names a task that has none."""
    if task not in prompts:
        raise ValueError(f"task={task!r} is not one of this checkpoint's: {', '.join(sorted(prompts))}")
    return prompts[task]
