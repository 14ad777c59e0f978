"""Score functions: (example, answer) -> float; the reference is `example.answer`, facts are in its `meta`."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from castor.content import Image, Message
from castor.example import Example
from castor.tasks.distance import character_error_rate, chrf, word_error_rate
from castor.tasks.normalise import final_number, normalise, units
from castor.tasks.task import ScoreFunction

CaptionScorer = Callable[[str, str, Mapping], float]  # (caption, language, wanted scene as JSON) -> F1
DrawingScorer = Callable[[np.ndarray, Mapping], float]  # (pixels_HWC uint8, wanted scene as JSON) -> F1

MAX_PSNR_DB = 60.0


def exact_match(example: Example, answer: Message) -> float:
    """1.0 if the answer equals the reference after folding; some examples accept several answers.

    `meta["accept"]`, when given, lists further answers that are also right (synonyms, digits for words).
    """
    accepted = [example.answer.text, *example.meta.get("accept", ())]
    given = normalise(answer.text)
    return float(any(given == normalise(text) for text in accepted))


def word_error(example: Example, answer: Message) -> float:
    """Word error rate (characters where the language writes no spaces).  Lower is better."""
    return word_error_rate(example.answer.text, answer.text, example.language)


def character_error(example: Example, answer: Message) -> float:
    """Character error rate.  Lower is better."""
    return character_error_rate(example.answer.text, answer.text, example.language)


def chrf_score(example: Example, answer: Message) -> float:
    """chrF2 of the folded texts."""
    return chrf(normalise(example.answer.text), normalise(answer.text))


def word_f1(example: Example, answer: Message) -> float:
    """Overlap of the two bags of words, as F1: order does not count, every word does."""
    wanted, given = (units(message.text, example.language) for message in (example.answer, answer))
    if not wanted or not given:
        return float(wanted == given)
    left = list(given)
    shared = 0
    for word in wanted:
        if word in left:
            left.remove(word)
            shared += 1
    return 2 * shared / (len(wanted) + len(given))


def final_answer(example: Example, answer: Message) -> float:
    """1.0 if the number a chain of steps ends in is the wanted one; word answers compare the last line.

    `meta["answer"]`, when given, is the wanted final answer; otherwise the reference text's own end is.
    """
    wanted_text = final_reply(example).text
    wanted = final_number(wanted_text)
    if wanted is not None:
        given = final_number(answer.text)
        return float(given is not None and math.isclose(given, wanted, rel_tol=1e-6, abs_tol=1e-9))
    return float(_last_words(answer.text, len(normalise(wanted_text).split())) == normalise(wanted_text))


def final_reply(example: Example) -> Message:
    """The wanted final answer alone, without the steps that lead to it."""
    return Message.model(str(example.meta.get("answer", example.answer.text)))


def _last_words(text: str, count: int) -> str:
    return " ".join(normalise(text).split()[-count:])


def unit_count(example: Example) -> float:
    """Length of the reference in words (characters for unspaced languages), at least 1."""
    return float(max(1, len(units(example.answer.text, example.language))))


def character_count(example: Example) -> float:
    """Length of the reference in folded characters, at least 1."""
    return float(max(1, len(normalise(example.answer.text))))


def caption_score(scene_f1: CaptionScorer) -> ScoreFunction:
    """Scores a caption by the facts it states (things, colours, sizes, places), read by the parser given."""

    def score(example: Example, answer: Message) -> float:
        return scene_f1(answer.text, example.language, _scene(example))

    return score


def drawing_score(scene_f1: DrawingScorer) -> ScoreFunction:
    """Scores the last picture of an answer by reading it back with the parser given; no picture scores 0."""

    def score(example: Example, answer: Message) -> float:
        if not answer.images:
            return 0.0
        return scene_f1(answer.images[-1].pixels(), _scene(example))

    return score


def _scene(example: Example) -> Mapping:
    if "scene" not in example.meta:
        raise ValueError(f"{example.task}: an example without meta['scene'] cannot be scored by its scene")
    return example.meta["scene"]


def psnr_db(left_HWC: np.ndarray, right_HWC: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in dB, at most 60; unequal sizes score 0."""
    if left_HWC.shape != right_HWC.shape:
        return 0.0
    error = np.mean((left_HWC.astype(np.float64) - right_HWC.astype(np.float64)) ** 2)
    if error == 0:
        return MAX_PSNR_DB
    return float(min(MAX_PSNR_DB, 10 * math.log10(255.0**2 / error)))


def reconstruction_psnr(example: Example, answer: Message) -> float:
    """PSNR in dB between the reference picture and the answer's last picture; no picture scores 0."""
    if not answer.images:
        return 0.0
    return psnr_db(_last_image(example.answer).pixels(), answer.images[-1].pixels())


def _last_image(message: Message) -> Image:
    if not message.images:
        raise ValueError("the reference of a reconstruction example holds no picture")
    return message.images[-1]
