"""Charts, lettering, arithmetic, reasoning, translation, pages: every answer found again by another way."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from castor.diorama import arithmetic, chart, gallery, lettering, page
from castor.diorama.draw import LANGUAGES, draw_for
from castor.diorama.reasoning import NAMES
from castor.diorama.saying import Saying
from castor.diorama.scene import Thing
from castor.diorama.world import World

TASKS = ("sound_event", "chart", "text_reading", "large_text", "translation", "arithmetic", "reasoning", "document")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_examples_are_pure_functions_of_their_number(task, split):
    forward = [World(split=split).example(task, index).to_json() for index in range(12)]
    backward = [World(split=split).example(task, index).to_json() for index in reversed(range(12))]
    assert forward == backward[::-1]
    assert len({str(each) for each in forward}) == 12


@pytest.mark.parametrize("task", TASKS)
def test_one_question_to_measure_and_several_to_train(task):
    turns = {
        split: {len(World(split=split).example(task, index).messages) // 2 for index in range(40)}
        for split in ("train", "val", "test")
    }
    assert turns["val"] == turns["test"] == {1}
    assert task in ("text_reading", "large_text") or max(turns["train"]) > 1


@pytest.mark.parametrize("task", TASKS)
def test_every_language_occurs_and_no_answer_is_common(task):
    for language in LANGUAGES:
        world = World(split="test", languages=(language,))
        examples = [world.example(task, index) for index in range(60)]
        assert {example.language for example in examples} == {language}
        answers = [example.answer.text for example in examples]
        assert max(answers.count(answer) for answer in answers) <= 15
        assert all(answer.strip() for answer in answers)


def every_step(text: str) -> list[str]:
    return [step.strip() for step in text.split(";")]


def test_arithmetic_steps_hold_and_end_in_the_value_of_the_expression():
    for index in range(300):
        example = World(split="test").example("arithmetic", index)
        for step in every_step(example.answer.text):
            left, right = step.split("=")
            assert eval(left) == int(right), example.answer.text
        assert eval(example.meta["expression"]) == example.meta["value"] == int(example.meta["answer"])
        assert example.answer.text.endswith(f"= {example.meta['value']}")
        asked = example.messages[0].text.replace("×", "*")
        assert example.meta["expression"] in asked or not re.search(r"\d", asked)


def test_unseen_pairs_never_train():
    for split in ("train", "test"):
        tagged = []
        for index in range(200):
            example = World(split=split).example("arithmetic", index)
            left, operator, right = example.meta["expression"].split()[:3]
            assert arithmetic.is_unseen_pair(int(left), operator, int(right)) == ("unseen_pair" in example.tags)
            tagged.append("unseen_pair" in example.tags)
        assert any(tagged) == (split == "test")


def test_number_words_read_back():
    for language in LANGUAGES:
        words = arithmetic.NUMBER_WORDS[language]
        assert len(words) == len(set(words)) == 21
    assert arithmetic.in_words("12 + 5", "fr") == "douze plus cinq"
    assert arithmetic.in_words("3 * 4", "zh") == "三乘以四"


@pytest.mark.parametrize("index", range(200))
def test_word_problems_solved_from_their_words(index):
    example = World(split="test").example("reasoning", index)
    question, final, kind = example.messages[0].text, example.meta["answer"], example.meta["question_kind"]
    numbers = [int(number) for number in re.findall(r"\d+", question)]
    assert example.answer.text.endswith(final)
    if kind == "groups":
        assert numbers[0] * numbers[1] == int(final)
    elif kind == "story":
        takes = ("taken", "拿出", "sacan", "retire", "herausgenommen", "निकाले")
        total, changes = numbers[0], re.split(r"(?<=[.。।])", question)[1:-1]
        for sentence in changes:
            change = int(re.search(r"\d+", sentence)[0])
            total += -change if any(word in sentence for word in takes) else change
        assert total == int(final)
    else:
        names = [name for name in NAMES[example.language] if name in question]
        ordered = example.answer.text.split(":")[0].split(" > ")
        assert final in names
        if kind == "shares":
            assert [int(number) for number in ordered] == sorted(numbers, reverse=True)
        else:
            assert sorted(ordered) == sorted(names) and final in (ordered[0], ordered[-1])


def test_chart_answers_follow_from_the_values():
    for index in range(150):
        example = World(split="test").example("chart", index)
        values = dict(zip(example.meta["labels"], example.meta["values"], strict=True))
        named = re.findall(r"[A-Za-z]+", example.messages[0].text)
        in_question = [label for label in values if label in named]
        answer = example.answer.text
        match example.meta["question_kind"]:
            case "highest":
                assert values[answer] == max(values.values())
            case "lowest":
                assert values[answer] == min(values.values())
            case "count":
                assert int(answer) == len(values)
            case "value":
                assert any(values[label] == int(answer) for label in in_question)
            case "compare":
                assert values[answer] == max(values[label] for label in in_question)


def test_bars_are_as_high_as_their_values():
    rng = draw_for(0, "train", "x", 1).rng
    shown = chart.Chart("bar", tuple("ABC"), (2, 9, 5))
    pixels = chart.paint(shown, rng).astype(int)
    assert pixels.shape == (128, 128, 3)
    unit_px = (chart.BOTTOM_PX - chart.TOP_PX) / chart.MAX_VALUE
    pitch_px = (chart.RIGHT_PX - chart.LEFT_PX) / 3
    for place, value in enumerate(shown.values):
        x = round(chart.LEFT_PX + pitch_px * (place + 0.5)) - 8
        column = pixels[chart.TOP_PX : chart.BOTTOM_PX, x]
        height = (np.abs(column - column[-3]).sum(1) == 0).sum()
        assert abs(height / unit_px - value) < 0.5


def test_lettering_fits_the_picture_and_is_legible_in_size():
    for index in range(60):
        example = World(split="test").example("text_reading", index)
        (picture,) = example.messages[0].images
        pixels = picture.pixels().astype(int)
        ink = np.abs(pixels - pixels[0, 0]).sum(2) > 60
        rows, columns = np.nonzero(ink)
        assert pixels.shape == (128, 128, 3) and 40 < ink.sum() < 6000
        assert rows.min() > 0 and columns.min() > 0 and columns.max() < 127
        assert example.answer.text == " ".join(example.meta["lines"])


def test_a_large_word_fills_the_width_or_has_the_largest_letters():
    num_full = 0
    for index in range(40):
        example = World(split="test").example("large_text", index)
        (line,) = example.meta["lines"]
        pixels = example.messages[0].images[0].pixels().astype(int)
        columns = np.nonzero(np.abs(pixels - pixels[0, 0]).sum(2) > 60)[1]
        left, _, right, _ = lettering.font(lettering.LARGEST_PX).getmask(line).getbbox()
        is_full = columns.max() - columns.min() > 100
        assert is_full or columns.max() - columns.min() + 1 >= right - left - 4, line
        num_full += is_full
    assert num_full > 10


def test_every_painted_letter_has_a_glyph():
    empty = lettering.font(24).getmask("\ufffe")
    for language in lettering.WORDS:
        words = "".join(lettering.paintable(language, False) + lettering.paintable(language, True))
        assert len(lettering.paintable(language, True)) >= 4
        for letter in sorted(set(words.upper() + words + "0123456789")):
            glyph = lettering.font(24).getmask(letter)
            assert glyph.getbbox() and (glyph.size != empty.size or bytes(glyph) != bytes(empty)), letter


def test_held_out_words_are_never_written_in_training():
    for language in lettering.WORDS:
        assert not set(lettering.vocabulary(language, True)) & set(lettering.vocabulary(language, False))
    held_out = {word.lower() for language in lettering.WORDS for word in lettering.vocabulary(language, True)}
    shared = {word.lower() for language in lettering.WORDS for word in lettering.vocabulary(language, False)} & held_out
    for index in range(200):
        lines = World(split="train").example("text_reading", index).meta["lines"]
        assert not ({line.lower() for line in lines} & held_out) - shared


def test_training_invents_words_and_tests_do_not():
    known = {word.lower() for language in lettering.WORDS for word in lettering.WORDS[language].split()}
    painted = {
        split: [
            line.lower()
            for index in range(150)
            for line in World(split=split).example("text_reading", index).meta["lines"]
            if not line.isdigit()
        ]
        for split in ("train", "test")
    }
    assert set(painted["test"]) <= known
    assert 0.25 < sum(line not in known for line in painted["train"]) / len(painted["train"]) < 0.5


def test_a_saying_is_put_in_every_language():
    saying = Saying("there", (Thing("circle", "red", ""),), number=3)
    assert saying.text("en") == "There are three red circles."
    assert saying.text("es") == "Hay tres círculos rojos."
    assert saying.text("fr") == "Il y a trois cercles rouges."
    assert saying.text("de") == "Es gibt drei rote Kreise."
    assert saying.text("zh") == "有三个红色的圆形。"
    assert saying.text("hi") == "तीन लाल वृत्त हैं।"


def test_translations_are_into_the_examples_language():
    for index in range(40):
        example = World(split="test").example("translation", index)
        assert example.meta["target"] == example.language != example.meta["source"]
        assert example.answer.text not in example.messages[0].text or example.meta["question_kind"] == "word"


def test_pages_open_and_show_their_facts():
    pdfium = pytest.importorskip("pypdfium2")
    for index in range(12):
        example = World(split="test").example("document", index)
        (part,) = [part for part in example.messages[0].parts if hasattr(part, "pages")]
        (pixels,) = part.pages(dpi=72)
        assert pixels.shape == (page.SIDE_PT, page.SIDE_PT, 3)
        colour = page.PAINTS[example.meta["colour"]]
        assert (np.abs(pixels.astype(int) - colour).max(2) < 6).sum() > 150
        text = pdfium.PdfDocument(part.data)[0].get_textpage().get_text_range()
        rows = dict(example.meta["rows"])
        assert example.meta["title"] in text and all(f"{word}" in text for word in rows)
        kind, answer = example.meta["question_kind"], example.answer.text
        assert kind != "most" or rows[answer] == max(rows.values())
        assert kind != "cell" or int(answer) in rows.values()
        assert kind != "rows" or int(answer) == len(rows)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.count = [], {}

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        assert not [value for key, value in attrs if key == "src" and not value.startswith("data:")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_gallery_is_one_closed_page(tmp_path):
    path = gallery.write_gallery(World(speech=False), tmp_path / "gallery.html", per_task=1)
    tags = Tags()
    tags.feed(path.read_text(encoding="utf-8"))
    assert not tags.open and tags.count["article"] == tags.count["section"] >= len(TASKS)
    assert tags.count["img"] >= 3 and tags.count["audio"] >= 1
    with pytest.raises(ValueError, match="0"):
        gallery.write_gallery(World(), path, per_task=0)
