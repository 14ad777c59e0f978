"""Spoken tasks: writing down what is said, and answering a spoken question about a picture.

A transcript is lower case without punctuation, words in the language's ordinary spelling ("there are three
red circles"); digits said one by one are written as digits ("4 7 1"). In the test split half of the voices
are ones that training never hears (tag "unseen_voice").
"""

import numpy as np

from castor.content import Audio, Image, Message
from castor.diorama import questions, render
from castor.diorama.draw import Draw, Maker
from castor.diorama.saying import draw_saying, transcript
from castor.diorama.scene import UNSEEN_TAG, random_scene
from castor.diorama.speech import MISSING, RATE_HZ, draw_voice, say, speech_available
from castor.example import Example

UNSEEN_VOICE_TAG = "unseen_voice"
MARGINS_S = (0.02, 0.25)  # silence before and after the words
NOISES = (0.0, 0.001, 0.003, 0.008)  # loudness of the noise under the words

REQUESTS = {
    "en": ("What is said here?", "Write down what is said.", "Transcribe this."),
    "zh": ("这里说了什么？", "写下听到的话。"),
    "es": ("¿Qué se dice aquí?", "Escribe lo que se dice.", "Transcribe esto."),
    "fr": ("Que dit-on ici ?", "Écris ce qui est dit.", "Transcris ceci."),
    "de": ("Was wird hier gesagt?", "Schreib auf, was gesagt wird."),
    "hi": ("यहाँ क्या कहा गया है?", "जो कहा गया है वह लिखो।", "इसे लिखो।"),
}


def require_speech(draw: Draw) -> None:
    """Raises ValueError where this world or this machine does not speak."""
    if not draw.speech:
        raise ValueError(f"{draw.task} needs speech, and this world was made with speech=False")
    if not speech_available():
        raise ValueError(f"{draw.task}: {MISSING}")


def speak(draw: Draw, text: str) -> tuple[Audio, str, bool]:
    """The text in the draw's language by a random voice: the recording, the voice's name, if it is unseen."""
    voice, unseen = draw_voice(draw.rng, draw.language, draw.split)
    spoken_S, rng = say(text, voice), draw.rng
    before, after = (int(rng.uniform(*MARGINS_S) * RATE_HZ) for _ in range(2))
    chance = np.random.default_rng(rng.getrandbits(64))
    samples_S = np.zeros(before + len(spoken_S) + after, dtype=np.float32)
    samples_S[before : before + len(spoken_S)] = spoken_S * (rng.uniform(0.4, 0.95) / np.abs(spoken_S).max())
    noise = rng.choice(NOISES)
    if noise:
        samples_S += noise * chance.standard_normal(len(samples_S), dtype=np.float32)
    return Audio.from_samples(np.clip(samples_S, -1, 1), RATE_HZ), voice.name, unseen


def spoken_sentence(draw: Draw) -> Example:
    """Something said, to be written down: a word, a number, digits, a phrase, a sentence or a command."""
    require_speech(draw)
    kind = draw.pick(("word", "number", "digits", "phrase", "phrase", "there", "relation", "command"))
    unseen = draw.wants_unseen()
    tags = [kind]
    if kind == "digits":
        written = " ".join(str(draw.rng.randrange(10)) for _ in range(draw.rng.randint(2, 4)))
        said = written.replace(" ", ", ")
    else:
        saying = draw_saying(draw.rng, kind, unseen)
        said = saying.text(draw.language)
        written = transcript(said, draw.language)
        tags += [UNSEEN_TAG] if saying.is_unseen else []
    audio, voice, is_new = speak(draw, said)
    tags += [UNSEEN_VOICE_TAG] if is_new else []
    request = draw.pick(REQUESTS[draw.language])
    parts = (request, audio) if draw.rng.random() < 0.25 else (audio, request)
    return Example(
        messages=(Message.user(*parts), Message.model(written)),
        task=draw.task,
        language=draw.language,
        tags=tuple(tags),
        meta={"said": said, "answer": written, "voice": voice, "kind": kind},
    )


def spoken_question(draw: Draw) -> Example:
    """A picture and a spoken question about it; in training one or two, each spoken by its own voice."""
    require_speech(draw)
    scene = random_scene(draw.rng, draw.rng.randint(1, 4), unseen=draw.wants_unseen())
    picture = Image.from_pixels(render.render(scene, 128))
    messages, tags, voices, asked = [], [], [], None
    for turn in range(draw.rng.randint(1, 2) if draw.is_train else 1):
        if draw.rng.random() < 0.4:
            wanted = questions.random_wanted(draw.rng, draw.pick(scene.things))
            asked = questions.ask_count(draw.rng, draw.language, scene, wanted)
        else:
            asked = questions.ask(draw.rng, draw.language, scene)
        audio, voice, is_new = speak(draw, asked.question)
        voices.append(voice)
        tags = [asked.kind] + [UNSEEN_VOICE_TAG] * is_new + [UNSEEN_TAG] * asked.is_unseen
        parts = (audio,) if turn else (picture, audio) if draw.rng.random() < 0.75 else (audio, picture)
        messages += [Message.user(*parts), Message.model(asked.answer)]
    assert asked is not None
    return Example(
        messages=tuple(messages),
        task=draw.task,
        language=draw.language,
        tags=tuple(tags),
        meta={
            "scene": scene.to_json(),
            "question": asked.question,
            "answer": asked.final or asked.answer,
            "voices": voices,
        },
    )


TASKS: dict[str, Maker] = {"spoken_sentence": spoken_sentence, "spoken_question": spoken_question}
NEEDS_SPEECH = frozenset(TASKS)
