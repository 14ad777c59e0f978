"""What an answer that knows nothing of the question's media would score, by the very same score function.

Four ignorant answerers are measured on the data itself, within each language of a task:
  shuffled    gives every example another example's reference answer;
  constant    gives every example one fixed answer, the best of the most frequent ones;
  blind       knows the sort of question, and gives the answer most frequent among the others of that sort;
  guess       gives one of the choices, each as likely, where an example has some.
Where worked steps lead to an answer, they give the answer alone: guessing needs no steps.
Chance is the best of them.  The constant is chosen on the test answers themselves, which flatters it: a
score above it is above any answerer of that kind.
"""

import random
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from castor.content import Message
from castor.example import Example
from castor.tasks.task import Metric

NUM_SHUFFLES = 4
NUM_CONSTANTS = 5


def chance_scores(metric: Metric, examples: Sequence[Example], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Scores [N] of the ignorant answerers by name; {} for a single example."""
    if len(examples) < 2:
        return {}
    groups: dict[str, list[int]] = {}
    for at, example in enumerate(examples):
        groups.setdefault(example.language, []).append(at)
    shuffled_N, constant_N = np.zeros(len(examples)), np.zeros(len(examples))
    for language, members in groups.items():
        pool = members if len(members) > 1 else list(range(len(examples)))
        rng = random.Random(f"{seed}/{language}")
        shuffled_N[members] = _shuffled(metric, examples, members, pool, rng)
        constant_N[members] = _best_constant(metric, examples, members, pool)
    return {"shuffled": shuffled_N, "constant": constant_N, **_blind(metric, examples), **_guess(metric, examples)}


def chance_of(
    metric: Metric, baselines: dict[str, np.ndarray], weights_N: np.ndarray, picked: list[int]
) -> float | None:
    """Chance on a slice: the best answerer's weighted mean over the picked examples; None without any."""
    means = [float(np.average(scores[picked], weights=weights_N[picked])) for scores in baselines.values()]
    if not means:
        return None
    return max(means) if metric.higher_is_better else min(means)


def _shuffled(
    metric: Metric, examples: Sequence[Example], members: list[int], pool: list[int], rng: random.Random
) -> np.ndarray:
    """Mean score of each member under a few other members' answers; no example ever gets its own."""
    order = list(pool)
    rng.shuffle(order)
    place = {member: at for at, member in enumerate(order)}
    answers = {member: metric.essence(examples[member]) for member in order}
    num_shuffles = min(NUM_SHUFFLES, len(order) - 1)
    shifts = rng.sample(range(1, len(order)), num_shuffles)
    scores_MS = [
        [metric.score(examples[m], answers[order[(place[m] + shift) % len(order)]]) for shift in shifts]
        for m in members
    ]
    return np.asarray(scores_MS, dtype=np.float64).mean(axis=1)


def _best_constant(metric: Metric, examples: Sequence[Example], members: list[int], pool: list[int]) -> np.ndarray:
    """Scores [M] of the best fixed answer among the most frequent ones and, for error rates, silence.

    An answer that only one example has says nothing about that example: there the next best is given.
    """
    answers = {at: metric.essence(examples[at]) for at in pool}
    keys = {at: answer_key(answer) for at, answer in answers.items()}
    first: dict[str, int] = {}
    for at in pool:
        first.setdefault(keys[at], at)
    frequent = Counter(keys.values()).most_common(NUM_CONSTANTS)
    candidates = [(answers[first[key]], first[key] if num == 1 else -1) for key, num in frequent]
    if not metric.higher_is_better or len(candidates) == 1:
        candidates.append((Message.model(""), -1))
    scores_CM = np.asarray(
        [[metric.score(examples[at], answer) for at in members] for answer, _ in candidates], dtype=np.float64
    )
    is_own_CM = np.asarray([[at == source for at in members] for _, source in candidates])
    weights_CM = np.asarray([metric.weight(examples[at]) for at in members]) * ~is_own_CM
    means_C = (scores_CM * weights_CM).sum(axis=1) / np.maximum(weights_CM.sum(axis=1), 1e-9)
    order_C = np.argsort(-means_C if metric.higher_is_better else means_C, kind="stable")
    best, second = order_C[0], order_C[1]
    return np.where(is_own_CM[best], scores_CM[second], scores_CM[best])


def _blind(metric: Metric, examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """Scores of the most frequent answer among the other examples of the same language and sort of question.

    {} where the examples do not say their sort; silence where an example is the only one of its sort.
    """
    if not any("question_kind" in example.meta for example in examples):
        return {}
    answers = [metric.essence(example) for example in examples]
    keys = [answer_key(answer) for answer in answers]
    first = dict(reversed(list(zip(keys, answers, strict=True))))
    sorts = [(example.language, example.meta.get("question_kind")) for example in examples]
    counts: dict[tuple[str, object], Counter[str]] = {}
    for sort, key in zip(sorts, keys, strict=True):
        counts.setdefault(sort, Counter())[key] += 1
    scores = []
    for example, sort, key in zip(examples, sorts, keys, strict=True):
        others = +(counts[sort] - Counter([key]))
        guess = first[others.most_common(1)[0][0]] if others else Message.model("")
        scores.append(metric.score(example, guess))
    return {"blind": np.asarray(scores, dtype=np.float64)}


def _guess(metric: Metric, examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """Mean scores over the choices; {} where an example has none."""
    choices = [example.meta.get("choices", ()) for example in examples]
    if not all(choices):
        return {}
    means = [
        np.mean([metric.score(example, Message.model(choice)) for choice in among])
        for example, among in zip(examples, choices, strict=True)
    ]
    return {"guess": np.asarray(means, dtype=np.float64)}


def answer_key(answer: Message) -> str:
    """What makes two answers the same: their words, and their pictures by content."""
    pictures = [sha256(image.pixels().tobytes()).hexdigest() for image in answer.images]
    return "|".join([answer.text, *pictures])
