"""A task: what is asked, under which name, and the metrics an answer is measured by.

The same object serves evaluation and, unchanged, as a reward.  It holds no examples: those come from a source
that writes the task's name on each `Example`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from castor.content import Message
from castor.example import Example

ScoreFunction = Callable[[Example, Message], float]


def _one(example: Example) -> float:
    return 1.0


def _answer(example: Example) -> Message:
    return example.answer


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number per answer.  A score over many examples is the mean weighted by `weight`.

    An error rate is weighted by the length of its reference: the mean is edits over units of the corpus.
    """

    name: str
    score: ScoreFunction
    higher_is_better: bool = True
    is_fraction: bool = True  # printed as a percentage; otherwise as a plain number with `unit`
    unit: str = ""
    weight: Callable[[Example], float] = _one
    essence: Callable[[Example], Message] = _answer  # the part of the reference that counts, without worked steps

    def is_better(self, left: float, right: float) -> bool:
        """Whether score `left` beats score `right`."""
        return left > right if self.higher_is_better else left < right


@dataclass(frozen=True, kw_only=True)
class Task:
    """A named ability and its metrics, the main one first."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    max_tokens: int = 48  # longest answer the task calls for, in tokens

    @property
    def metric(self) -> str:
        """The name of the main metric, which is the first."""
        return self.metrics[0].name

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the main metric is better."""
        return self.metrics[0].higher_is_better

    def score(self, example: Example, answer: Message) -> float:
        """The main metric of one answer."""
        return self.metrics[0].score(example, answer)

    def reward(self, example: Example, answer: Message) -> float:
        """The main metric turned so that more is better."""
        return self.score(example, answer) if self.higher_is_better else -self.score(example, answer)


def find_task(tasks: Mapping[str, Task], name: str) -> Task:
    """The task of that name.  Raises ValueError that names the nearest one."""
    if name in tasks:
        return tasks[name]
    near = get_close_matches(name, tasks, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known tasks: {', '.join(sorted(tasks))}"
    raise ValueError(f"no task is called {name!r}{hint}")
