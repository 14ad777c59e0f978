"""evaluate(): examples through a model, answers through the tasks' metrics, rows into a report."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from castor.content import Message
from castor.evals.chance import chance_of, chance_scores
from castor.evals.interval import interval, weighted_mean
from castor.evals.progress import Progress, silent
from castor.evals.records import record_line
from castor.evals.report import Report, Row
from castor.example import Example
from castor.tasks.task import Metric, Task, find_task

Answerer = Callable[[Sequence[Example]], Sequence[Message]]


class Answers(Protocol):
    """What evaluation needs of a model: batches of conversations in, one answer each out."""

    def generate_batch(
        self, prompts: list[list[Message]], *, max_tokens: int, choices: tuple[str, ...] = ...
    ) -> list[Message]: ...


def evaluate(
    model: Answers,
    examples_by_task: Mapping[str, Sequence[Example]],
    tasks: Mapping[str, Task],
    *,
    batch_size: int = 32,
    answerers: Mapping[str, Answerer] | None = None,
    records_path: str | Path | None = None,
    progress: Progress = silent,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Report:
    """Measures a model on examples.

    `answerers` answers named tasks by something other than `model.generate_batch` (the image tokenizer
    alone, for one).  `records_path` is written as JSON lines, one per answer; the report
    keeps `settings`.  Raises ValueError for a task name that `tasks` does not know.
    """
    chosen = {name: find_task(tasks, name) for name in examples_by_task}
    num_total = sum(len(examples) for examples in examples_by_task.values())
    num_done, rows, lines, seconds = 0, [], [], {}
    for name, examples in examples_by_task.items():
        if not examples:
            continue
        task, start_s = chosen[name], time.monotonic()
        answer = (answerers or {}).get(name) or _answerer(model, task)
        answers: list[Message] = []
        for at in range(0, len(examples), batch_size):
            answers += answer(examples[at : at + batch_size])
            progress(name, num_done + len(answers), num_total)
        if len(answers) != len(examples):
            raise ValueError(f"{name}: {len(examples)} questions but {len(answers)} answers")
        num_done += len(answers)
        seconds[name] = round(time.monotonic() - start_s, 2)
        scores = {metric.name: _scores(metric, examples, answers) for metric in task.metrics}
        for index, metric in enumerate(task.metrics):
            rows += metric_rows(task, metric, examples, scores[metric.name], is_main=index == 0, seed=seed)
        lines += [
            record_line(example, answers[at], {key: float(values[at]) for key, values in scores.items()})
            for at, example in enumerate(examples)
        ]
    if records_path is not None:
        Path(records_path).parent.mkdir(parents=True, exist_ok=True)
        Path(records_path).write_text("".join(lines), encoding="utf-8")
    return Report(rows=tuple(rows), settings={**(settings or {}), "seed": seed, "seconds": seconds})


def metric_rows(
    task: Task,
    metric: Metric,
    examples: Sequence[Example],
    scores_N: np.ndarray,
    *,
    is_main: bool = True,
    seed: int = 0,
) -> list[Row]:
    """The rows of one metric: all examples first, then every slice that has any."""
    weights_N = np.asarray([metric.weight(example) for example in examples], dtype=np.float64)
    baselines = chance_scores(metric, examples, seed=seed)
    rows = []
    for name, picked in slices(examples).items():
        low, high = interval(scores_N[picked], weights_N[picked], seed=seed)
        rows.append(
            Row(
                task=task.name,
                title=task.title,
                slice=name,
                metric=metric.name,
                n=len(picked),
                score=weighted_mean(scores_N[picked], weights_N[picked]),
                low=low,
                high=high,
                chance=chance_of(metric, baselines, weights_N, picked),
                higher_is_better=metric.higher_is_better,
                is_fraction=metric.is_fraction,
                unit=metric.unit,
                is_main=is_main,
            )
        )
    return rows


def slices(examples: Sequence[Example]) -> dict[str, list[int]]:
    """Which examples count in which slice: "all", each of several languages, each unseen_* tag, "real"."""
    found = {"all": list(range(len(examples)))}
    languages = sorted({example.language for example in examples}, key=lambda code: (code != "en", code))
    if len(languages) > 1:
        for language in languages:
            found[language] = [at for at, example in enumerate(examples) if example.language == language]
    for tag in sorted({tag for example in examples for tag in example.tags if tag.startswith("unseen_")}):
        found[tag] = [at for at, example in enumerate(examples) if tag in example.tags]
    real = [at for at, example in enumerate(examples) if "real" in example.tags or "source" in example.meta]
    if 0 < len(real) < len(examples):
        found["real"] = real
    return found


def _answerer(model: Answers, task: Task) -> Answerer:
    """What answers a task's examples; those with choices among them, all of one list at once."""

    def answer(examples: Sequence[Example]) -> Sequence[Message]:
        groups: dict[tuple[str, ...], list[int]] = {}
        for at, example in enumerate(examples):
            groups.setdefault(tuple(example.meta.get("choices", ())), []).append(at)
        answers: dict[int, Message] = {}
        for choices, members in groups.items():
            prompts = [list(examples[at].prompt) for at in members]
            among = {"choices": choices} if choices else {}
            given = model.generate_batch(prompts, max_tokens=task.max_tokens, **among)
            answers |= dict(zip(members, given, strict=True))
        return [answers[at] for at in range(len(examples))]

    return answer


def _scores(metric: Metric, examples: Sequence[Example], answers: Sequence[Message]) -> np.ndarray:
    pairs = zip(examples, answers, strict=True)
    return np.asarray([metric.score(example, answer) for example, answer in pairs], dtype=np.float64)
