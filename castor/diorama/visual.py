"""Tasks about still pictures: questions, counting, captions and dialogue."""

from castor.content import Image, Message
from castor.diorama.draw import Draw, Maker
from castor.diorama.lexicon import PLACE_WORDS
from castor.diorama.phrases import say
from castor.diorama.questions import Question, ask, ask_count, fields_of, matches, name_of, random_wanted
from castor.diorama.quiz import Asked, quiz
from castor.diorama.render import PICTURE_PX, render
from castor.diorama.scene import UNSEEN_TAG, Scene, Thing, place_all, random_kind, random_scene
from castor.diorama.words import answer_word, caption
from castor.example import Example

MAX_THINGS = 5


def picture_of(scene: Scene, side_px: int = PICTURE_PX) -> Image:
    """A scene as an image part."""
    return Image.from_pixels(render(scene, side_px), name="picture")


def focus_of(scene: Scene, unseen: bool) -> Thing | None:
    """The unseen combination of a scene built around one; None for any thing."""
    return next((thing for thing in scene.things if thing.is_unseen), None) if unseen else None


def example_of(draw: Draw, scene: Scene, questions: list[Question]) -> Example:
    """Questions over one picture; the tag for unseen combinations goes by the last question."""
    asked = [Asked(question.question, question.answer, question.kind, question.final) for question in questions]
    tags = (UNSEEN_TAG,) if questions[-1].is_unseen else ()
    return quiz(draw, [picture_of(scene)], asked, meta={"scene": scene.to_json()}, tags=tags)


def image_question(draw: Draw) -> Example:
    """Colour, shape, place, relation, size and yes/no questions."""
    unseen = draw.wants_unseen()
    scene = random_scene(draw.rng, draw.rng.randint(1, MAX_THINGS), unseen)
    focus = focus_of(scene, unseen)
    questions: dict[str, Question] = {}
    for _ in range(draw.num_turns()):
        question = ask(draw.rng, draw.language, scene, focus)
        questions.setdefault(question.question, question)
    return example_of(draw, scene, list(questions.values()))


def image_count(draw: Draw) -> Example:
    """How many things have a colour, a shape, both or a size; 0, 1, 2, 3 and 4 are equally frequent.

    The first answer says what there is before it counts; later ones, in training, count from that.
    """
    rng, unseen = draw.rng, draw.wants_unseen()
    first = random_kind(rng, unseen=unseen)
    wanted = random_wanted(rng, first)
    is_any = wanted == Thing("", "", "")
    num_wanted = rng.randint(1, MAX_THINGS) if is_any else rng.randint(1 if unseen else 0, 4)
    things = [first] if unseen and num_wanted else []
    attributes = {key: value for key in ("shape", "colour", "size") if (value := getattr(wanted, key))}
    while len(things) < num_wanted:
        is_pair = "shape" in attributes and "colour" in attributes
        things.append(random_kind(rng, unseen=unseen and is_pair, **attributes))
    num_others = 0 if is_any else rng.randint(0 if num_wanted else 1, MAX_THINGS - num_wanted)
    while len(things) < num_wanted + num_others:
        other = random_kind(rng)
        if not matches(other, wanted):
            things.append(other)
    scene = place_all(rng, things)
    questions = {wanted: ask_count(rng, draw.language, scene, wanted)}
    for _ in range(draw.num_turns() - 1):
        other_wanted = random_wanted(rng, scene.things[rng.randrange(len(scene.things))])
        questions.setdefault(other_wanted, ask_count(rng, draw.language, scene, other_wanted, worked=False))
    return example_of(draw, scene, list(questions.values()))


def image_caption(draw: Draw) -> Example:
    """One canonical sentence that names every thing; in training followed by questions."""
    unseen = draw.wants_unseen()
    scene = random_scene(draw.rng, draw.rng.randint(1, 4), unseen)
    text = say(draw.rng, draw.language, "caption")
    questions = [Question(text, caption(draw.language, scene.things), "caption", scene.things)]
    if draw.is_train:
        for _ in range(draw.rng.randint(0, 2)):
            questions.append(ask(draw.rng, draw.language, scene))
    return example_of(draw, scene, questions)


def dialogue(draw: Draw) -> Example:
    """A question, then "And the star?": only the turn before says what is asked."""
    rng, language, unseen = draw.rng, draw.language, draw.wants_unseen()
    kind = draw.pick(("colour", "colour", "where", "where", "size"))
    while True:
        scene = random_scene(rng, rng.randint(2, MAX_THINGS), unseen)
        things = list(scene.things)
        rng.shuffle(things)
        things.sort(key=lambda thing: thing is focus_of(scene, unseen))  # the unseen one is asked about last
        names = [(thing, name_of(rng, scene, thing, without=kind)) for thing in things]
        named = [(thing, name) for thing, name in names if name is not None and name.shape]
        if len(named) >= 2 and (not unseen or named[-1][0].is_unseen):
            break
    named = named[-draw.num_turns() :] if draw.is_train else named[-2:]
    turns: list[Message] = []
    for i, (thing, name) in enumerate(named):
        text = say(rng, language, kind if i == 0 else "follow", **fields_of(language, name))
        place = PLACE_WORDS[language][thing.place][0]
        answer = place if kind == "where" else answer_word(language, getattr(thing, kind))
        turns.append(Message.user(picture_of(scene), text) if i == 0 else Message.user(text))
        turns.append(Message.model(answer))
    last = named[-1][0]
    meta = {"scene": scene.to_json(), "question_kind": kind, "answer": turns[-1].text}
    tags = (kind, *((UNSEEN_TAG,) if last.is_unseen else ()))
    return Example(messages=tuple(turns), task=draw.task, language=language, tags=tags, meta=meta)


TASKS: dict[str, Maker] = {
    "image_question": image_question,
    "image_count": image_count,
    "caption": image_caption,
    "dialogue": dialogue,
}
