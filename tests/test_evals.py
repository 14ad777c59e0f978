"""Evaluation: scores move with the answers, intervals and chance are what they say."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from castor.content import Image, Message
from castor.evals.chance import chance_scores
from castor.evals.evaluate import evaluate
from castor.evals.interval import bootstrap, interval, weighted_mean, wilson
from castor.evals.report import Report, Row
from castor.evals.table import report_table
from castor.example import Example
from castor.tasks.suite import build_tasks

TASKS = build_tasks(
    caption_f1=lambda text, language, scene: float(text == scene["text"]),
    drawing_f1=lambda pixels, scene: float(abs(float(pixels.mean()) - scene["grey"]) < 8),
)
COLOURS = ("red", "green", "blue", "black")


class Oracle:
    """Answers from a table of prompts: the reference, another example's reference, or nonsense."""

    def __init__(self, examples: list[Example], answers: list[Message]) -> None:
        self.table = {example.prompt[0].text: answer for example, answer in zip(examples, answers, strict=True)}
        self.widest = 0

    def generate_batch(self, prompts: list[list[Message]], *, max_tokens: int) -> list[Message]:
        assert max_tokens > 0
        self.widest = max(self.widest, len(prompts))
        return [self.table[prompt[0].text] for prompt in prompts]


def questions(n: int = 48) -> list[Example]:
    return [
        Example(
            messages=(Message.user(f"q{i}"), Message.model(COLOURS[i % 4])),
            task="image_question",
            language="en" if i % 3 else "zh",
            tags=("unseen_combination",) if i % 5 == 0 else (),
        )
        for i in range(n)
    ]


def sentences(n: int = 30) -> list[Example]:
    rng = random.Random(1)
    texts = [" ".join(rng.choice(COLOURS) for _ in range(rng.randint(2, 9))) for _ in range(n)]
    return [
        Example(messages=(Message.user(f"s{i}"), Message.model(text)), task="spoken_sentence")
        for i, text in enumerate(texts)
    ]


def drawings(n: int = 12) -> list[Example]:
    return [
        Example(
            messages=(
                Message.user(f"d{i}"),
                Message.model(Image.from_pixels(np.full((8, 8, 3), 20 * i, np.uint8))),
            ),
            task="drawing",
            meta={"scene": {"grey": 20.0 * i}},
        )
        for i in range(n)
    ]


def run(examples: list[Example], answers: list[Message], **options: object) -> Report:
    return evaluate(Oracle(examples, answers), {examples[0].task: examples}, TASKS, **options)


@pytest.mark.parametrize("make", [questions, sentences, drawings])
def test_perfect_wrong_and_shuffled_answers(make: object) -> None:
    examples = make()
    task = examples[0].task
    perfect = run(examples, [example.answer for example in examples]).row(task)
    wrong = run(examples, [Message.model("nonsense") for _ in examples]).row(task)
    order = random.Random(0).sample(range(len(examples)), len(examples))
    shuffled = run(examples, [examples[at].answer for at in order]).row(task)
    best = 1.0 if perfect.higher_is_better else 0.0
    assert perfect.score == best and perfect.verdict == "above chance"
    assert wrong.verdict != "above chance"
    assert shuffled.verdict != "above chance"
    assert perfect.chance == wrong.chance == shuffled.chance


def test_slices_and_batches() -> None:
    examples = questions()
    oracle = Oracle(examples, [example.answer for example in examples])
    seen: list[tuple[int, int]] = []
    report = evaluate(
        oracle,
        {"image_question": examples},
        TASKS,
        batch_size=7,
        progress=lambda task, done, total: seen.append((done, total)),
    )
    assert oracle.widest == 7
    assert seen[-1] == (48, 48)
    assert [row.slice for row in report.rows] == ["all", "en", "zh", "unseen_combination"]
    assert [row.n for row in report.rows] == [48, 32, 16, 10]


def test_error_rate_of_a_corpus_is_edits_over_words() -> None:
    examples = sentences()
    answers = [Message.model(example.answer.text + " red") for example in examples]
    row = run(examples, answers).row("spoken_sentence")
    num_words = sum(len(example.answer.text.split()) for example in examples)
    assert row.score == pytest.approx(len(examples) / num_words)
    assert row.low <= row.score <= row.high
    assert row.direction == "lower is better" and row.arrow == "↓"


def test_chance_is_the_best_ignorant_answerer() -> None:
    examples = [
        Example(messages=(Message.user("?"), Message.model("yes" if i < 8 else f"no {i}")), task="image_question")
        for i in range(10)
    ]
    baselines = chance_scores(TASKS["image_question"].metrics[0], examples)
    assert baselines["constant"].mean() == pytest.approx(0.8)
    assert baselines["shuffled"].mean() < 0.8
    assert run(examples, [example.answer for example in examples]).row("image_question").chance == pytest.approx(0.8)


def test_the_ignorant_guess_final_answers_without_steps() -> None:
    examples = [
        Example(messages=(Message.user("?"), Message.model(f"place {i}: {n}")), task="image_count", meta={"answer": n})
        for i, n in enumerate("2222213004")
    ]
    assert len({example.answer.text for example in examples}) == 10
    assert run(examples, [example.answer for example in examples]).row("image_count").chance == pytest.approx(0.5)


def test_a_blind_answerer_knows_the_sort_of_question() -> None:
    sorts = {"exists": ("yes", "yes", "yes", "no"), "count": ("2", "2", "2", "1"), "where": ("left",)}
    examples = [
        Example(
            messages=(Message.user("?"), Message.model(answer)),
            task="image_question",
            meta={"question_kind": sort},
        )
        for sort, answers in sorts.items()
        for answer in answers
    ]
    baselines = chance_scores(TASKS["image_question"].metrics[0], examples)
    assert baselines["blind"].tolist() == [1, 1, 1, 0, 1, 1, 1, 0, 0]
    report = run(examples, [example.answer for example in examples])
    assert report.row("image_question").chance == pytest.approx(6 / 9)


def test_no_example_is_given_its_own_answer() -> None:
    baselines = chance_scores(TASKS["drawing"].metrics[0], drawings())
    assert baselines["shuffled"].max() == 0.0


def test_a_lone_example_has_no_chance_and_no_verdict() -> None:
    examples = questions(1)
    row = run(examples, [examples[0].answer]).row("image_question")
    assert row.chance is None and row.verdict == "too few"


def test_wilson_and_bootstrap() -> None:
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == 1.0
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=400), np.ones(400)
    low, high = bootstrap(values, weights)
    half = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert weighted_mean(np.array([0.0, 1.0]), np.array([3.0, 1.0])) == 0.25
    with pytest.raises(ValueError):
        interval(np.array([]), np.array([]))


def test_verdict_needs_the_whole_interval() -> None:
    common = {"task": "t", "title": "T", "slice": "all", "metric": "m", "n": 50, "score": 0.5}
    assert Row(**common, low=0.4, high=0.6, chance=0.3).verdict == "above chance"
    assert Row(**common, low=0.4, high=0.6, chance=0.45).verdict == "not told apart from chance"
    assert Row(**common, low=0.4, high=0.6, chance=0.7).verdict == "below chance"
    assert Row(**common, low=0.4, high=0.6, chance=0.7, higher_is_better=False).verdict == "above chance"


def test_report_json_markdown_and_records(tmp_path: Path) -> None:
    examples = questions()
    pixels = np.zeros((4, 4, 3), np.uint8)
    shown = [
        Example(
            messages=(Message.user(example.prompt[0].text, Image.from_pixels(pixels)), example.answer),
            task=example.task,
        )
        for example in examples
    ]
    path = tmp_path / "deep" / "records.jsonl"
    report = run(shown, [example.answer for example in examples], records_path=path, settings={"model": "oracle"})
    assert Report.from_json(json.loads(report.dumps())) == report
    assert report.settings["model"] == "oracle" and "image_question" in report.settings["seconds"]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(examples)
    assert lines[1]["answer"]["parts"] == [{"text": "green"}] and lines[1]["scores"] == {"exact match": 1.0}
    assert lines[1]["prompt"][0]["parts"] == [{"text": "q1"}, {"omitted": "image"}]
    markdown = report.to_markdown()
    assert "| Questions about a picture | all | exact match ↑ | 48 | **100.0 %** |" in markdown
    assert report_table(report).row_count == len(report.rows)


def test_examples_with_choices_are_asked_among_them_and_come_back_in_order() -> None:
    """A model that says the last of the choices, or "free" without any; two lists of choices, mixed."""

    class Last:
        def generate_batch(
            self, prompts: list[list[Message]], *, max_tokens: int, choices: tuple[str, ...] = ("free",)
        ) -> list[Message]:
            return [Message.model(choices[-1]) for _ in prompts]

    lists = [(), ("red", "green"), ("blue", "black")]
    wanted = ["free", "green", "black"]
    examples = [
        Example(
            messages=(Message.user(f"c{i}"), Message.model(wanted[i % 3])),
            task="sound_name",
            meta={"choices": list(lists[i % 3])} if i % 3 else {},
        )
        for i in range(21)
    ]
    report = evaluate(Last(), {"sound_name": examples}, TASKS)
    assert report.overall()[0].score == 1.0
    among = [example for example in examples if example.meta]
    guessed = chance_scores(TASKS["sound_name"].metrics[0], among)["guess"]
    assert guessed.tolist() == [0.5] * len(among)  # one of two


def test_an_answerer_stands_in_for_the_model() -> None:
    examples = [
        Example(messages=(Message.user(example.answer.images[0]), example.answer), task="reconstruction")
        for example in drawings()
    ]
    report = evaluate(
        Oracle([], []),
        {"reconstruction": examples},
        TASKS,
        answerers={"reconstruction": lambda batch: [example.answer for example in batch]},
    )
    row = report.row("reconstruction")
    assert row.number(row.score) == "60.0 dB" and row.verdict == "above chance"


def test_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="image_question"):
        evaluate(Oracle([], []), {"image_questions": questions()}, TASKS)
