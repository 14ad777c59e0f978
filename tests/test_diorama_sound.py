"""Sounds and speech of the small world: exact, repeatable, and heard again from the samples alone."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

from castor.diorama import sound, speech, spoken
from castor.diorama.draw import LANGUAGES, Event, draw_for
from castor.diorama.saying import transcript
from castor.diorama.world import World

needs_speech = pytest.mark.skipif(not speech.speech_available(), reason="the extra `synth` is not installed")
SENTENCES = {
    "en": "There are three red circles.",
    "zh": "有三个红色的圆形。",
    "es": "Hay tres círculos rojos.",
    "fr": "Il y a trois cercles rouges.",
    "de": "Es gibt drei rote Kreise.",
    "hi": "तीन लाल वृत्त हैं।",
}


def voice_of(language: str, variant: str = "m1") -> speech.Voice:
    return speech.Voice(name=f"{speech.ACCENTS[language][0]}+{variant}")


def samples_of(example) -> np.ndarray:
    (audio,) = [part for part in example.messages[0].parts if hasattr(part, "samples")]
    return audio.samples()


def count_bursts(samples_S: np.ndarray, min_gap_s: float = 0.1) -> int:
    """Sounds heard in a recording: runs of loud 10 ms frames, parted by quiet ones."""
    frames = np.abs(samples_S[: len(samples_S) // 160 * 160]).reshape(-1, 160).max(1)
    loud_at = np.flatnonzero(frames > 0.04)
    return 1 + int((np.diff(loud_at) > min_gap_s * 100).sum()) if loud_at.size else 0


@pytest.mark.parametrize("kind", sound.SOUNDS)
def test_each_sound_is_repeatable_bounded_and_its_own(kind):
    made = [sound.make_sound(kind, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0][:300], made[2][:300])
    assert made[0].dtype == np.float32 and 0.02 < len(made[0]) / 16_000 < 1.0
    assert np.isclose(np.abs(made[0]).max(), 1, atol=1e-5) and made[0][0] == made[0][-1] == 0


def test_the_count_is_heard_in_the_energy_envelope():
    world, counted = World(split="test", seed=5), 0
    for index in range(120):
        example = world.example("sound_event", index)
        if example.meta["question_kind"] == "count":
            counted += 1
            assert count_bursts(samples_of(example)) == int(example.answer.text) == len(example.meta["events"])
    assert counted > 20


def test_first_and_last_follow_the_events():
    world = World(split="test", seed=6)
    for index in range(60):
        example = world.example("sound_event", index)
        at = {"first": 0, "last": -1, "name": 0}.get(example.meta["question_kind"])
        if at is not None:
            kind = example.meta["events"][at]["kind"]
            assert example.answer.text == sound.NAMES[example.language][kind]


def test_names_are_distinct_in_every_language():
    for language in LANGUAGES:
        assert len(set(sound.NAMES[language].values())) == len(sound.SOUNDS)


def test_a_sound_track_sounds_at_its_events():
    rng = draw_for(0, "train", "x", 0).rng
    track_S = sound.sound_for([Event(0.5, "bounce"), Event(1.4, "hit")], 2.0, rng)
    assert len(track_S) == 32_000 and track_S.dtype == np.float32
    quiet, bounce, hit = (np.abs(track_S[int(s * 16_000) :][:2400]).max() for s in (0.2, 0.5, 1.4))
    assert quiet < 0.02 < 0.3 < min(bounce, hit)
    assert sound.sound_for([], 2.0, rng) is None
    with pytest.raises(ValueError, match="splash"):
        sound.sound_for([Event(0.5, "splash")], 2.0, rng)


@needs_speech
def test_every_language_speaks_and_sounds_different():
    spectra = {}
    for language, text in SENTENCES.items():
        samples_S = speech.say(text, voice_of(language))
        assert samples_S.dtype == np.float32 and 0.6 < len(samples_S) / 16_000 < 4
        assert np.sqrt(np.mean(samples_S**2)) > 0.02 and np.abs(samples_S).max() <= 1
        digits_S = speech.say("7, 4", voice_of(language))
        assert len(digits_S) < len(samples_S)
        spectra[language] = digits_S
    for one in spectra:
        for other in spectra:
            assert one == other or not np.array_equal(spectra[one], spectra[other])


@needs_speech
def test_every_voice_exists_and_differs():
    heard = {}
    for language, accents in speech.ACCENTS.items():
        for variant in (*speech.SEEN_VARIANTS, *speech.UNSEEN_VARIANTS):
            for accent in accents:
                heard[accent, variant] = speech.say(SENTENCES[language], speech.Voice(name=f"{accent}+{variant}"))
    assert len({samples_S.tobytes() for samples_S in heard.values()}) == len(heard)


@needs_speech
def test_samples_do_not_depend_on_what_was_said_before():
    first, second = speech.Speaker(), speech.Speaker()
    second.say("Something else altogether.", voice_of("en", "f2"))
    text, voice = SENTENCES["en"], voice_of("en")
    assert np.array_equal(first.say(text, voice), second.say(text, voice))
    first.close(), second.close()


@needs_speech
def test_a_dead_child_is_replaced():
    speaker = speech.Speaker()
    before = speaker.say("one", voice_of("en"))
    os.kill(speaker.child.pid, signal.SIGKILL)
    speaker.child.wait()
    speaker.cache.clear()
    assert np.array_equal(speaker.say("one", voice_of("en")), before)
    speaker.close()
    assert speaker.child is None


@needs_speech
def test_a_bad_voice_is_an_error_and_the_child_lives_on():
    speaker = speech.Speaker()
    with pytest.raises(ValueError, match="no such voice: 'nobody'"):
        speaker.say("one", speech.Voice(name="nobody"))
    pid = speaker.child.pid
    assert len(speaker.say("one", voice_of("en"))) and speaker.child.pid == pid
    with pytest.raises(ValueError, match="nothing to say"):
        speaker.say("  ", voice_of("en"))
    speaker.close()


def _say_in_worker(results):
    results.put(speech.say("two", voice_of("en")).tobytes())


@needs_speech
def test_a_forked_worker_has_its_own_child():
    here = speech.say("two", voice_of("en")).tobytes()
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    worker = context.Process(target=_say_in_worker, args=(results,))
    worker.start()
    assert results.get() == here
    worker.join(10)
    assert worker.exitcode == 0
    assert speech.say("three", voice_of("en")).size


@needs_speech
def test_spoken_examples_are_repeatable_and_say_their_answer():
    for task in sorted(spoken.NEEDS_SPEECH):
        for split in ("train", "test"):
            one, two = (World(split=split).example(task, 3) for _ in range(2))
            assert one == two and one.to_json() == two.to_json()
    example = World(split="test").example("spoken_sentence", 1)
    said = example.meta["said"].replace(",", "") if example.meta["kind"] == "digits" else example.meta["said"]
    assert example.answer.text == transcript(said, example.language) == example.meta["answer"]


@needs_speech
def test_held_out_voices_are_heard_in_test_only():
    for split in ("train", "val", "test"):
        examples = [World(split=split).example("spoken_sentence", index) for index in range(40)]
        unseen = [example.meta["voice"].split("+")[1] in speech.UNSEEN_VARIANTS for example in examples]
        assert unseen == [spoken.UNSEEN_VOICE_TAG in example.tags for example in examples]
        assert any(unseen) == (split == "test")


def test_without_the_synthesiser_the_reason_is_told(monkeypatch):
    with pytest.raises(ValueError, match="speech=False"):
        World(speech=False).example("spoken_sentence", 0)
    monkeypatch.setattr(speech, "speech_available", lambda: False)
    monkeypatch.setattr(spoken, "speech_available", lambda: False)
    with pytest.raises(ValueError, match="synth"):
        World().example("spoken_question", 0)
    with pytest.raises(ValueError, match="synth"):
        speech.Speaker().say("one", voice_of("en"))


def test_transcripts_have_no_capitals_and_no_punctuation():
    assert transcript("Draw a star.", "en") == "draw a star"
    assert transcript("¿Dónde está, amigo?", "es") == "dónde está amigo"
    assert transcript("有三个，红色的圆形。", "zh") == "有三个红色的圆形"
    assert transcript("तीन लाल वृत्त हैं।", "hi") == "तीन लाल वृत्त हैं"
    assert transcript("L'étoile est à gauche.", "fr") == "l'étoile est à gauche"


@needs_speech
def test_a_breathy_voice_says_the_same_in_two_processes():
    text, voice = "a small blue heart", speech.Voice(name="en-us+f2", rate_wpm=160, pitch=50, range=50)
    first, second = speech.Speaker(), speech.Speaker()
    try:
        assert np.array_equal(first.say(text, voice), second.say(text, voice))
    finally:
        first.close()
        second.close()
