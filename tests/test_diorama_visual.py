"""The pictures, words and clips of the small world: answers checked by a second, slower route."""

import dataclasses
import random
import re
import time

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFilter

from castor.content import Image, Video
from castor.diorama.draw import LANGUAGES
from castor.diorama.drawing import drawing_of
from castor.diorama.lexicon import DIRECTION_WORDS
from castor.diorama.parse import agreement, parse, scene_f1
from castor.diorama.phrases import PHRASES, VIDEO_PHRASES
from castor.diorama.questions import matches
from castor.diorama.render import render
from castor.diorama.scene import (
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    UNSEEN_COLOUR_SHAPE,
    UNSEEN_SIZE_SHAPE,
    UNSEEN_SIZES_IN,
    UNSEEN_TAG,
    Scene,
    Thing,
    holds,
    random_scene,
    settle,
)
from castor.diorama.words import caption, noun_phrase, parse_caption, relation_phrase
from castor.diorama.world import World

STILL = ("image_question", "image_count", "caption", "dialogue", "drawing", "interleaved")
MOVING = ("video_question", "video_caption")


def facts(things):
    return [(thing.shape, thing.colour, thing.size, thing.place) for thing in things]


def picture(example):
    return next(part for message in example.messages for part in message.parts if isinstance(part, Image))


def clip(example):
    return next(part for message in example.messages for part in message.parts if isinstance(part, Video)).clip()


def contents(example):
    """Roles, texts, pixels, frames and samples: what was generated, whatever files an encoder makes of it."""
    parts = [part for message in example.messages for part in message.parts]
    held = [(message.role, message.text) for message in example.messages]
    for part in parts:
        if isinstance(part, Image):
            held.append(part.pixels().tobytes())
        elif isinstance(part, Video):
            made = part.clip()
            held += [made.frames_FHWC.tobytes(), None if made.samples_S is None else made.samples_S.tobytes()]
    return held


def scene_for(index):
    rng = random.Random(f"scene {index}")
    return random_scene(rng, rng.randint(1, 5), unseen=index % 3 == 0)


# ---- purity and splits


@pytest.mark.parametrize("task", STILL + MOVING)
def test_an_example_is_a_pure_function_of_its_index(task):
    for split in ("train", "test"):
        world, again = World(seed=3, split=split), World(seed=3, split=split)
        for index in (0, 7):
            first, second = world.example(task, index), again.example(task, index)
            assert contents(first) == contents(second)
            assert (first.tags, first.meta, first.language) == (second.tags, second.meta, second.language)
    texts = {tuple(m.text for m in World(seed=s).example(task, 0).messages) for s in range(6)}
    assert len(texts) > 1


def test_training_never_shows_or_names_a_held_out_combination():
    world = World()
    for index in range(250):
        for task in STILL + MOVING:
            example = world.example(task, index)
            assert UNSEEN_TAG not in example.tags
            footage = example.meta.get("footage")
            shown = [track["thing"] for track in footage["tracks"]] if footage else []
            for key in ("scene", "shown", "drawn"):
                shown += example.meta.get(key, {"things": []})["things"]
            assert shown or footage
            for thing in shown:
                assert (thing["colour"], thing["shape"]) not in UNSEEN_COLOUR_SHAPE
                is_size = (thing["size"], thing["shape"]) in UNSEEN_SIZE_SHAPE
                assert not (is_size and thing["colour"] in UNSEEN_SIZES_IN)
            if example.language == "en":
                text = " ".join(message.text for message in example.messages)
                assert not any(re.search(rf"\b{c} {s}s?\b", text) for c, s in UNSEEN_COLOUR_SHAPE), text


@pytest.mark.parametrize("task", STILL + MOVING)
def test_a_good_part_of_the_test_split_is_held_out_and_every_item_asks_once(task):
    examples = [World(split="test").example(task, index) for index in range(300)]
    share = sum(UNSEEN_TAG in example.tags for example in examples) / len(examples)
    assert 0.25 < share < 0.55
    if task != "dialogue":
        assert all(len(example.messages) == 2 for example in examples)
    assert {example.language for example in examples} == set(LANGUAGES)


def test_training_asks_several_questions_of_one_picture():
    lengths = [len(World().example("image_question", index).messages) for index in range(100)]
    assert max(lengths) == 16 and sum(lengths) / 100 > 4


def test_a_world_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="dream"):
        World(split="dream")
    with pytest.raises(ValueError, match="tlh"):
        World(languages=("tlh",))
    with pytest.raises(ValueError, match="juggling"):
        World().example("juggling", 0)


# ---- pixels read back


@pytest.mark.parametrize("side_px", [64, 128])
def test_clean_pictures_read_back_exactly(side_px):
    num_right = num_things = 0
    for index in range(250):
        scene = scene_for(index)
        found = facts(parse(render(scene, side_px)).things)
        num_things += len(scene.things)
        num_right += sum(fact in found for fact in facts(scene.things))
    assert num_right / num_things >= 0.99


def test_the_parser_stands_blur_and_noise():
    scores = []
    for index in range(80):
        scene = scene_for(index)
        soft = Pillow.fromarray(render(scene, 64)).filter(ImageFilter.GaussianBlur(1))
        noise = np.random.default_rng(index).normal(0, 15, (64, 64, 3))
        scores.append(scene_f1(parse(np.clip(np.asarray(soft) + noise, 0, 255).astype(np.uint8)), scene))
    assert np.mean(scores) > 0.97


def test_every_combination_reads_back_at_the_size_of_drawings():
    for shape in SHAPES:
        for colour in COLOURS:
            for size in SIZES:
                thing = Thing(shape, colour, size).at("center")
                assert facts(parse(render(Scene((thing,)), 64)).things) == facts([thing])


@pytest.mark.parametrize("pixels", [np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64, 3), np.uint8)])
def test_an_empty_picture_shows_nothing(pixels):
    assert parse(pixels).things == ()


def test_noise_is_not_read_as_the_wanted_scene():
    wanted = scene_for(1)
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        assert scene_f1(parse(pixels), wanted) == 0


def test_scene_f1_by_hand():
    red, blue = Thing("circle", "red", "large").at("left"), Thing("square", "blue", "small").at("right")
    assert scene_f1(Scene((red, blue)), Scene((blue, red))) == 1
    assert scene_f1(Scene((red,)), Scene((red, blue))) == pytest.approx(2 / 3)
    assert scene_f1(Scene(()), Scene((red,))) == 0
    assert scene_f1(Scene((red, red)), Scene((red,))) == pytest.approx(2 / 3)
    pink = dataclasses.replace(red, colour="pink")
    assert scene_f1(Scene((pink,)), Scene((red,))) == 0
    assert scene_f1(Scene((pink,)), Scene((red,)), partial=True) == pytest.approx(0.75)
    wanted = Scene((Thing("circle", "red", "large"), Thing("square", "blue", "small")), relations=((0, "left", 1),))
    assert scene_f1(Scene((red, blue)), wanted) == 1
    assert scene_f1(Scene((red.at("right"), blue.at("left"))), wanted) == pytest.approx(2 / 3)
    assert Scene.from_json(wanted.to_json()) == wanted


# ---- answers by a second route


def test_counts_agree_with_a_recount_from_pixels():
    names = {noun_phrase("en", Thing(shape, colour, size), "many"): Thing(shape, colour, size)
             for shape in ("", *SHAPES) for colour in ("", *COLOURS) for size in ("", *SIZES)}  # fmt: skip
    answers = []
    for index in range(250):
        example = World(split="test", languages=("en",)).example("image_count", index)
        pattern = r"(?:How many|Count the) (.*?)(?: are there| do you see)?[?.]$"
        wanted = names[re.match(pattern, example.messages[0].text).group(1)]
        things = parse(picture(example).pixels()).things
        number = sum(matches(thing, wanted) for thing in things)
        steps, _, said = example.answer.text.rpartition(": ")
        place = r"(?:at|on|in) the (?:top|bottom|left|right|center)(?: left| right)?"
        marks = re.findall(rf"an? (\w+ \w+ \w+) {place} \((\d)\)", steps, re.IGNORECASE)
        in_order = [t for t in things if matches(t, wanted)]
        assert marks == [(f"{t.size} {t.colour} {t.shape}", str(k)) for k, t in enumerate(in_order, 1)], steps
        counted = caption("en", in_order).removesuffix(".") if in_order else ""
        assert re.sub(r" \(\d\)", "", steps) == counted, example.messages[0].text
        assert said == str(number)
        assert example.meta["answer"] == str(number)
        answers.append(example.meta["answer"])
    assert max(answers.count(answer) for answer in set(answers)) / len(answers) < 0.35


def test_questions_agree_with_the_pixels():
    num_checked = 0
    for index in range(400):
        example = World(split="test", languages=("en",)).example("image_question", index)
        question, answer = example.messages[0].text, example.answer.text
        things = parse(picture(example).pixels()).things
        if found := re.match(r"Where (?:is|can you see) the (?:(\w+) )?(\w+)\?", question):
            first, shape = found.groups()
            named = [t for t in things if t.shape == shape and first in (None, t.colour, t.size)]
            assert [thing.place for thing in named] == [answer], question
        elif found := re.match(r"(?:Is there|Do you see|Can you see) an? (\w+) (\w+)\?", question):
            is_there = any((thing.colour, thing.shape) == found.groups() for thing in things)
            assert answer == ("yes" if is_there else "no"), question
        elif found := re.match(
            r"W(?:hat|hich) color (?:is|does) the shape (?:at the|on the|in the) ([a-z ]+?)( have)?\?",
            question,
        ):
            assert [t.colour for t in things if t.place == found.group(1)] == [answer], question
        elif found := re.match(r"W(?:hat|hich) shape is (left of|right of|above|below) the (.*)\?", question):
            relation = found.group(1).split()[0]
            name = found.group(2)
            (second,) = [t for t in things if re.fullmatch(f"({t.size} )?({t.colour} )?{t.shape}", name)]
            assert [t.shape for t in things if holds(t, relation, second)] == [answer], question
        else:
            continue
        num_checked += 1
    assert num_checked > 150


def test_yes_and_no_are_few_and_balanced():
    examples = [World(split="test", languages=("en",)).example("image_question", index) for index in range(1500)]
    answers = [e.answer.text for e in examples if e.meta["question_kind"] == "exists"]
    assert 0.04 < len(answers) / 1500 < 0.15
    assert 0.4 < answers.count("yes") / len(answers) < 0.6
    everything = [e.answer.text for e in examples]
    assert max(everything.count(answer) for answer in set(everything)) / 1500 < 0.15


def test_follow_up_questions_are_answered_from_the_turn_before():
    for index in range(60):
        example = World(split="val", languages=("en",)).example("dialogue", index)
        assert len(example.messages) == 4 and re.match("And |What about ", example.messages[2].text)
        assert not example.messages[2].images


def test_drawings_read_back_as_what_was_asked():
    for split in ("train", "test"):
        for index in range(150):
            for task in ("drawing", "interleaved"):
                example = World(split=split).example(task, index)
                (drawn,) = example.answer.images
                assert drawn.pixels().shape == (72, 72, 3)
                wanted = Scene.from_json(example.meta["scene"])
                assert scene_f1(parse(drawn.pixels()), wanted) == 1, example.messages[0].text


def test_a_thing_is_drawn_alike_in_every_place():
    for thing in (Thing("star", "red", "small"), Thing("heart", "blue", "large")):
        cells = []
        for index, place in enumerate(PLACES):
            pixels = drawing_of(Scene(settle(random.Random(0), [thing.at(place)], jitter=0.0, vary=0.0))).pixels()
            row, column = divmod(index, 3)
            cells.append(pixels[24 * row : 24 * row + 24, 24 * column : 24 * column + 24])
            assert (pixels != 255).any(2).sum() == (cells[-1] != 255).any(2).sum(), "all of it lies in its place"
        assert all(np.array_equal(cell, cells[0]) for cell in cells)


def test_requests_name_what_is_drawn():
    for index in range(200):
        example = World(split="test").example("drawing", index)
        if example.meta["request_kind"] == "places":
            text = re.sub(r"^.*?(：|:)", "", example.messages[0].text)
            said = parse_caption(text.split("图，")[-1], example.language)
            wanted = Scene.from_json(example.meta["scene"]).things
            assert sorted(facts(said)) == sorted(facts(wanted)), example.messages[0].text


def test_motion_agrees_with_the_frames():
    num_checked = 0
    for index in range(200):
        example = World(split="test", languages=("en",)).example("video_question", index)
        if example.meta["question_kind"] != "moves":
            continue
        frames = clip(example).frames_FHWC
        assert frames.shape == (16, 64, 64, 3)
        before, after = parse(frames[0]).things, parse(frames[-1]).things
        moved = []
        for thing in before:
            (later,) = [t for t in after if agreement(t, Thing(thing.shape, thing.colour, "")) == 1]
            dx, dy = later.x - thing.x, later.y - thing.y
            if max(abs(dx), abs(dy)) > 0.1:
                way = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
                moved.append(f"The {thing.colour} {thing.shape} moves {way}.")
        assert moved == [example.answer.text]
        num_checked += 1
    assert num_checked > 30


def test_sounds_come_with_some_clips_and_never_without_an_event():
    examples = [World().example("video_question", index) for index in range(120)]
    sounding = [example for example in examples if clip(example).samples_S is not None]
    assert 10 < len(sounding) < 80
    assert all(example.meta["footage"]["events"] for example in sounding)


# ---- words


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_parse_back_to_the_scene(language):
    for index in range(300):
        scene = scene_for(index)
        text = caption(language, scene.things)
        assert facts(parse_caption(text, language)) == facts(scene.things), text


def test_a_caption_may_be_partial_or_empty():
    assert parse_caption("", "en") == []
    assert parse_caption("Nothing at all.", "en") == []
    (thing,) = parse_caption("A red circle.", "en")
    assert (thing.shape, thing.colour, thing.size, thing.place) == ("circle", "red", "", "")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_can_ask_everything(language):
    assert PHRASES[language].keys() == PHRASES["en"].keys()
    assert VIDEO_PHRASES[language].keys() == VIDEO_PHRASES["en"].keys()
    assert DIRECTION_WORDS[language].keys() == DIRECTION_WORDS["en"].keys()


STAR, HEART, SQUARE = (
    Thing("star", "orange", "large"),
    Thing("heart", "green", "small"),
    Thing("square", "blue", ""),
)
GRAMMAR = [
    ("en", STAR, "a", "a large orange star"),
    ("en", Thing("circle", "orange", ""), "a", "an orange circle"),
    ("en", Thing("cross", "red", ""), "many", "red crosses"),
    ("zh", HEART, "a", "一个绿色的小心形"),
    ("zh", SQUARE, "the", "蓝色的正方形"),
    ("es", Thing("star", "red", "small"), "a", "una estrella roja pequeña"),
    ("es", SQUARE, "the_of", "del cuadrado azul"),
    ("es", Thing("cross", "blue", ""), "many", "cruces azules"),
    ("es", HEART, "many", "corazones verdes pequeños"),
    ("fr", Thing("star", "purple", "large"), "a", "une grande étoile violette"),
    ("fr", Thing("star", "green", ""), "the", "l'étoile verte"),
    ("fr", Thing("star", "green", "small"), "the_of", "de la petite étoile verte"),
    ("fr", SQUARE, "a_of", "d'un carré bleu"),
    ("fr", Thing("star", "", ""), "many_of", "d'étoiles"),
    ("fr", Thing("cross", "black", "large"), "many", "grandes croix noires"),
    ("de", Thing("circle", "red", "large"), "a", "ein großer roter Kreis"),
    ("de", Thing("circle", "red", "large"), "a_to", "einen großen roten Kreis"),
    ("de", SQUARE, "a_of", "einem blauen Quadrat"),
    ("de", Thing("star", "purple", "small"), "the", "der kleine lila Stern"),
    ("de", HEART, "the_of", "dem kleinen grünen Herzen"),
    ("de", Thing("", "yellow", ""), "many", "gelbe Formen"),
    ("hi", Thing("star", "yellow", "small"), "a", "एक छोटा पीला तारा"),
    ("hi", Thing("star", "yellow", "small"), "a_of", "एक छोटे पीले तारे"),
    ("hi", Thing("", "blue", "large"), "many", "बड़ी नीली आकृतियाँ"),
]


@pytest.mark.parametrize(("language", "thing", "form", "wanted"), GRAMMAR)
def test_noun_phrases_agree(language, thing, form, wanted):
    assert noun_phrase(language, thing, form) == wanted


def test_relations_in_words():
    assert relation_phrase("en", "left", SQUARE) == "left of the blue square"
    assert relation_phrase("zh", "below", SQUARE) == "蓝色的正方形的下方"
    assert relation_phrase("es", "left", SQUARE) == "a la izquierda del cuadrado azul"
    assert relation_phrase("fr", "above", HEART, definite=False) == "au-dessus d'un petit cœur vert"
    assert relation_phrase("de", "left", SQUARE) == "links vom blauen Quadrat"
    assert relation_phrase("de", "right", SQUARE, definite=False) == "rechts von einem blauen Quadrat"
    assert relation_phrase("hi", "right", SQUARE) == "नीले वर्ग के दाईं ओर"


@pytest.mark.parametrize(
    ("task", "prompt"),
    [
        ("image_count", "How many red shapes are there?"),
        ("video_question", "What moves, and where to?"),
        ("drawing", "Draw a large red circle left of a small blue square."),
    ],
)
def test_the_prompts_of_the_guide_are_in_the_distribution(task, prompt):
    world = World(languages=("en",))
    if task == "drawing":  # one of some tens of thousands; its form and its words are
        thing, other = Thing("circle", "red", "large"), Thing("square", "blue", "small")
        assert not thing.is_unseen and not other.is_unseen
        form = f"Draw {noun_phrase('en', thing, 'a_to')} {relation_phrase('en', 'left', other, False)}."
        assert form == prompt
        requests = (world.example(task, index).messages[0].text for index in range(300))
        assert any(re.match(r"Draw an? large \w+ \w+ left of an? small \w+ \w+\.$", text) for text in requests)
    else:
        assert any(world.example(task, index).messages[0].text == prompt for index in range(1200))


@pytest.mark.parametrize(("task", "limit_ms"), [("image_question", 3), ("drawing", 3), ("video_question", 8)])
def test_examples_are_made_fast(task, limit_ms):
    world = World()
    costs_ms = []
    for index in range(60):
        start_s = time.perf_counter()
        world.example(task, index)
        costs_ms.append(1000 * (time.perf_counter() - start_s))
    assert np.median(costs_ms) < limit_ms
