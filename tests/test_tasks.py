"""Scores against their slow formulas, and the properties every score must have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.content import Image, Message
from castor.example import Example
from castor.tasks import scores
from castor.tasks.distance import character_error_rate, chrf, edit_distance, word_error_rate
from castor.tasks.normalise import final_number, normalise
from castor.tasks.suite import build_tasks
from castor.tasks.task import find_task

TASKS = build_tasks(
    caption_f1=lambda text, language, scene: float(text == scene["text"]),
    drawing_f1=lambda pixels, scene: float(pixels.mean() > 128) if scene["light"] else float(pixels.mean() < 128),
)

words = st.lists(st.sampled_from(["a", "red", "circle", "left", "of", "the"]), max_size=8)


def example(reference: str | Message, task: str = "image_question", language: str = "en", **meta: object) -> Example:
    answer = reference if isinstance(reference, Message) else Message.model(reference)
    return Example(messages=(Message.user("?"), answer), task=task, language=language, meta=meta)


@pytest.mark.parametrize(
    ("raw", "folded"),
    [
        ("Red,  Circle.", "red circle"),
        ("\uff12\u500b", "2\u500b"),
        ("-3.5", "-3.5"),
        ("1,000 people!", "1,000 people"),
        ("left-right", "left right"),
        ("¿Cuántos?", "cuántos"),
        ("लाल।", "लाल"),
        ("...", ""),
    ],
)
def test_normalise(raw: str, folded: str) -> None:
    assert normalise(raw) == folded


@given(st.text(max_size=40))
def test_normalise_is_idempotent(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


def test_what_vanishes_leaves_no_sign_behind() -> None:
    assert normalise("0\x08-0") == normalise("0!-0") == "0 0"


def slow_edit_distance(left: list[str], right: list[str]) -> int:
    if not left or not right:
        return len(left) + len(right)
    if left[0] == right[0]:
        return slow_edit_distance(left[1:], right[1:])
    return 1 + min(
        slow_edit_distance(left[1:], right),
        slow_edit_distance(left, right[1:]),
        slow_edit_distance(left[1:], right[1:]),
    )


@settings(max_examples=60, deadline=None)
@given(words.map(lambda x: x[:6]), words.map(lambda x: x[:6]))
def test_edit_distance_equals_recursion(left: list[str], right: list[str]) -> None:
    assert edit_distance(left, right) == slow_edit_distance(left, right)


@settings(max_examples=60, deadline=None)
@given(words.filter(bool), words)
def test_error_rates_equal_jiwer(left: list[str], right: list[str]) -> None:
    jiwer = pytest.importorskip("jiwer")
    reference, answer = " ".join(left), " ".join(right)
    assert word_error_rate(reference, answer) == pytest.approx(jiwer.wer(reference, answer))
    assert character_error_rate(reference, answer) == pytest.approx(jiwer.cer(reference, answer))


def test_chinese_is_counted_in_characters() -> None:
    assert word_error_rate("红色圆形", "红色方形", "zh") == pytest.approx(1 / 4)
    assert word_error_rate("红色圆形", "红色方形", "en") == 1.0


def slow_chrf(reference: str, answer: str) -> float:
    """Sorted lists and removal in place of counters."""
    totals = [0.0, 0.0]
    num_orders = 0
    for order in range(1, 7):
        texts = [text.replace(" ", "") for text in (reference, answer)]
        wanted, given_ = ([text[i : i + order] for i in range(len(text)) if i + order <= len(text)] for text in texts)
        if not wanted and not given_:
            continue
        num_orders += 1
        left, shared = list(wanted), 0
        for gram in given_:
            if gram in left:
                left.remove(gram)
                shared += 1
        totals[0] += shared / len(given_) if given_ else 0
        totals[1] += shared / len(wanted) if wanted else 0
    if not num_orders:
        return 1.0
    precision, recall = (total / num_orders for total in totals)
    return 5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


@settings(max_examples=80, deadline=None)
@given(st.text("abc ", max_size=14), st.text("abc ", max_size=14))
def test_chrf_equals_slow_formula(reference: str, answer: str) -> None:
    assert chrf(reference, answer) == pytest.approx(slow_chrf(reference, answer))


def test_chrf_known_value() -> None:
    assert chrf("the cat", "the cat") == 1.0
    assert chrf("the cat", "dog") == 0.0
    assert chrf("a red circle", "a red square") == pytest.approx(0.22103174603174602)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7, 7 * 2 = 14.", 14.0),
        ("-2", -2.0),
        ("1,250", 1250.0),
        ("5-3", 3.0),
        ("none", None),
        ("0.50", 0.5),
    ],
)
def test_final_number(text: str, number: float | None) -> None:
    assert final_number(text) == number


def test_final_answer_counts_only_the_end() -> None:
    asked = example("3 + 4 = 7\n7 + 1 = 8", task="arithmetic")
    assert scores.final_answer(asked, Message.model("so 8")) == 1.0
    assert scores.final_answer(asked, Message.model("8 + 1 = 9")) == 0.0
    assert scores.final_answer(asked, Message.model("")) == 0.0
    told = example("long words", task="reasoning", answer="red")
    assert scores.final_answer(told, Message.model("It is not blue, so it is Red.")) == 1.0


def test_exact_match_accepts_listed_answers() -> None:
    asked = example("two", accept=["2"])
    assert scores.exact_match(asked, Message.model("2.")) == 1.0
    assert scores.exact_match(asked, Message.model("3")) == 0.0


def test_drawing_is_read_back_from_its_pixels() -> None:
    light = Image.from_pixels(np.full((8, 8, 3), 250, np.uint8))
    asked = example(Message.model(light), task="drawing", scene={"light": True})
    assert TASKS["drawing"].score(asked, Message.model("here", light)) == 1.0
    assert TASKS["drawing"].score(asked, Message.model(Image.from_pixels(np.zeros((8, 8, 3), np.uint8)))) == 0.0
    assert TASKS["drawing"].score(asked, Message.model("words only")) == 0.0
    with pytest.raises(ValueError, match="scene"):
        TASKS["drawing"].score(example("x", task="drawing"), Message.model(light))


def test_psnr() -> None:
    left = np.zeros((4, 4, 3), np.uint8)
    assert scores.psnr_db(left, left) == 60.0
    assert scores.psnr_db(left, np.full_like(left, 255)) == pytest.approx(0.0)
    assert scores.psnr_db(left, np.full_like(left, 16)) == pytest.approx(20 * np.log10(255 / 16))
    assert scores.psnr_db(left, np.zeros((4, 5, 3), np.uint8)) == 0.0


def test_every_text_metric_is_best_on_the_reference() -> None:
    asked = example("the red circle", scene={"text": "the red circle"})
    perfect, wrong = Message.model("the red circle"), Message.model("8")
    for task in TASKS.values():
        for metric in task.metrics:
            if metric.name == "PSNR" or task.name in ("drawing", "redraw", "interleaved"):
                continue
            best = metric.score(asked, perfect)
            assert best == (1.0 if metric.higher_is_better else 0.0)
            assert metric.is_better(best, metric.score(asked, wrong))
    assert not TASKS["spoken_sentence"].higher_is_better
    assert TASKS["spoken_sentence"].reward(asked, perfect) > TASKS["spoken_sentence"].reward(asked, wrong)


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="image_count"):
        find_task(TASKS, "image_cout")
