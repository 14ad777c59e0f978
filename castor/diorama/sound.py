"""Sound events: twelve procedural sounds, series of them to name, count and order, and sound tracks.

Every sound is made of sines and noise with jittered pitch, length and loudness. Leaves out speech.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from castor.content import Audio
from castor.diorama.draw import Draw, Event, Maker
from castor.diorama.quiz import Asked, quiz
from castor.example import Example

RATE_HZ = 16_000
MIN_GAP_S = 0.15

Chance = np.random.Generator
Sound = Callable[[Chance], np.ndarray]


def _time(duration_s: float) -> np.ndarray:
    return np.arange(int(duration_s * RATE_HZ), dtype=np.float32) / RATE_HZ


def _tone(frequency_hz: float | np.ndarray, t_S: np.ndarray) -> np.ndarray:
    frequency_S = np.zeros_like(t_S) + frequency_hz
    return np.sin(np.cumsum(frequency_S) * np.float32(2 * np.pi / RATE_HZ))


def _band(chance: Chance, num_samples: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Noise between two frequencies, unit peak."""
    num_fast = 1 << max(num_samples - 1, 1).bit_length()
    spectrum = np.fft.rfft(chance.standard_normal(num_fast).astype(np.float32))
    bins_hz = np.fft.rfftfreq(num_fast, 1 / RATE_HZ)
    spectrum[(bins_hz < low_hz) | (bins_hz > high_hz)] = 0
    noise_S = np.fft.irfft(spectrum)[:num_samples]
    return noise_S / max(float(np.abs(noise_S).max()), 1e-6)


def beep(chance: Chance) -> np.ndarray:
    """A steady tone."""
    return _tone(chance.uniform(850, 1150), _time(chance.uniform(0.15, 0.3)))


def bell(chance: Chance) -> np.ndarray:
    """Partials that ring out, the high ones first."""
    t_S, base_hz = _time(chance.uniform(0.4, 0.6)), chance.uniform(520, 760)
    partials = ((1.0, 1.0, 5), (2.0, 0.6, 7), (2.76, 0.5, 9), (5.4, 0.3, 14))
    rings = [gain * _tone(base_hz * ratio, t_S) * np.exp(-decay * t_S) for ratio, gain, decay in partials]
    return np.sum(rings, axis=0)


def knock(chance: Chance) -> np.ndarray:
    """Two short woody tones that die away."""
    t_S = _time(chance.uniform(0.12, 0.16))
    wood_S = _tone(chance.uniform(330, 430), t_S) + 0.5 * _tone(chance.uniform(700, 800), t_S)
    return wood_S * np.exp(-45 * t_S)


def drum(chance: Chance) -> np.ndarray:
    """A low tone that falls as it dies away."""
    t_S = _time(chance.uniform(0.25, 0.4))
    sweep_hz = chance.uniform(70, 95) + 90 * np.exp(-30 * t_S)
    return _tone(sweep_hz, t_S) * np.exp(-9 * t_S)


def whistle(chance: Chance) -> np.ndarray:
    """A high trilling tone with breath in it."""
    t_S = _time(chance.uniform(0.3, 0.5))
    pitch_hz = chance.uniform(2100, 2500) + 70 * np.sin(2 * np.pi * chance.uniform(22, 30) * t_S)
    return _tone(pitch_hz, t_S) + 0.15 * _band(chance, len(t_S), 1500, 4000)


def siren(chance: Chance) -> np.ndarray:
    """A tone that swings up and down."""
    t_S = _time(chance.uniform(0.6, 0.8))
    swing = np.sin(2 * np.pi * chance.uniform(1.6, 2.4) * t_S - np.pi / 2)
    return _tone(chance.uniform(650, 750) + 280 * swing, t_S) + 0.3 * _tone(1400 + 560 * swing, t_S)


def bird(chance: Chance) -> np.ndarray:
    """Three chirps."""
    chirps = []
    for _ in range(3):
        t_S = _time(chance.uniform(0.07, 0.1))
        chirp_S = _tone(np.linspace(chance.uniform(3000, 3400), chance.uniform(4500, 5500), len(t_S)), t_S)
        chirps += [chirp_S * np.sin(np.pi * t_S / t_S[-1]), np.zeros(int(0.03 * RATE_HZ))]
    return np.concatenate(chirps[:-1])


def buzz(chance: Chance) -> np.ndarray:
    """A low tone with all its odd harmonics."""
    t_S, base_hz = _time(chance.uniform(0.35, 0.55)), chance.uniform(105, 135)
    return np.sum([_tone(base_hz * harmonic, t_S) / harmonic for harmonic in range(1, 18, 2)], axis=0)


def clap(chance: Chance) -> np.ndarray:
    """A short burst of noise."""
    t_S = _time(chance.uniform(0.14, 0.2))
    return _band(chance, len(t_S), 900, 3200) * np.exp(-35 * t_S)


def rain(chance: Chance) -> np.ndarray:
    """Steady noise with drops in it."""
    t_S = _time(chance.uniform(0.6, 0.8))
    drops_S = (chance.random(len(t_S)) < 0.01) * chance.standard_normal(len(t_S))
    return 0.5 * _band(chance, len(t_S), 500, 7500) + 0.8 * np.clip(drops_S, -1, 1)


def click(chance: Chance) -> np.ndarray:
    """The shortest burst of high noise."""
    t_S = _time(chance.uniform(0.03, 0.05))
    return _band(chance, len(t_S), 3000, 7500) * np.exp(-180 * t_S)


def horn(chance: Chance) -> np.ndarray:
    """Two tones a third apart, rich in harmonics."""
    t_S, base_hz = _time(chance.uniform(0.4, 0.6)), chance.uniform(340, 400)
    harmonics = [(ratio * n, 0.7**n) for ratio in (1, 1.26) for n in range(1, 7)]
    return np.sum([gain * _tone(base_hz * ratio, t_S) for ratio, gain in harmonics], axis=0)


SOUNDS: dict[str, Sound] = {
    "beep": beep, "bell": bell, "knock": knock, "drum": drum, "whistle": whistle, "siren": siren,
    "bird": bird, "buzz": buzz, "clap": clap, "rain": rain, "click": click, "horn": horn,
}  # fmt: skip

_NAMES = {
    "en": " ".join(SOUNDS),
    "zh": "哔声 铃声 敲门声 鼓声 哨声 警笛声 鸟叫声 嗡嗡声 拍手声 雨声 咔嗒声 喇叭声",
    "es": "pitido campana golpe tambor silbato sirena pájaro zumbido palmada lluvia clic bocina",
    "fr": "bip cloche coup tambour sifflet sirène oiseau bourdonnement claquement pluie clic klaxon",
    "de": "Piepton Glocke Klopfen Trommel Pfeife Sirene Vogel Summen Klatschen Regen Klick Hupe",
    "hi": "बीप घंटी दस्तक ढोल सीटी सायरन पक्षी भनभनाहट ताली बारिश क्लिक हॉर्न",
}
NAMES = {language: dict(zip(SOUNDS, names.split(), strict=True)) for language, names in _NAMES.items()}

QUESTIONS = {
    "en": {
        "name": ("Which sound is this?", "What do you hear?", "What makes this sound?"),
        "count": ("How many sounds are there?", "How many sounds do you hear?", "Count the sounds."),
        "first": ("Which sound comes first?", "What do you hear first?"),
        "last": ("Which sound comes last?", "What do you hear last?"),
    },
    "zh": {
        "name": ("这是什么声音？", "你听到了什么？"),
        "count": ("有几个声音？", "你听到了几个声音？"),
        "first": ("最先出现的是什么声音？", "你先听到什么？"),
        "last": ("最后出现的是什么声音？", "你最后听到什么？"),
    },
    "es": {
        "name": ("¿Qué sonido es este?", "¿Qué oyes?"),
        "count": ("¿Cuántos sonidos hay?", "¿Cuántos sonidos oyes?"),
        "first": ("¿Qué sonido viene primero?", "¿Qué oyes primero?"),
        "last": ("¿Qué sonido viene al final?", "¿Qué oyes al final?"),
    },
    "fr": {
        "name": ("Quel est ce son ?", "Qu'entends-tu ?"),
        "count": ("Combien de sons y a-t-il ?", "Combien de sons entends-tu ?"),
        "first": ("Quel son vient en premier ?", "Qu'entends-tu en premier ?"),
        "last": ("Quel son vient en dernier ?", "Qu'entends-tu en dernier ?"),
    },
    "de": {
        "name": ("Welches Geräusch ist das?", "Was hörst du?"),
        "count": ("Wie viele Geräusche gibt es?", "Wie viele Geräusche hörst du?"),
        "first": ("Welches Geräusch kommt zuerst?", "Was hörst du zuerst?"),
        "last": ("Welches Geräusch kommt zuletzt?", "Was hörst du zuletzt?"),
    },
    "hi": {
        "name": ("यह कौन सी आवाज़ है?", "आपको क्या सुनाई देता है?"),
        "count": ("कितनी आवाज़ें हैं?", "आपको कितनी आवाज़ें सुनाई देती हैं?"),
        "first": ("पहले कौन सी आवाज़ आती है?", "सबसे पहले क्या सुनाई देता है?"),
        "last": ("अंत में कौन सी आवाज़ आती है?", "आखिर में क्या सुनाई देता है?"),
    },
}


@dataclass(frozen=True)
class Heard:
    """One sound event of a scene."""

    kind: str
    start_s: float
    end_s: float


def make_sound(kind: str, chance: Chance) -> np.ndarray:
    """One sound event: float32 [S], 16 kHz, peak 1, ends faded against clicks."""
    if kind not in SOUNDS:
        raise ValueError(f"no sound {kind!r}; sounds: {', '.join(SOUNDS)}")
    sound_S = np.array(SOUNDS[kind](chance), dtype=np.float32)
    num_faded = min(48, len(sound_S) // 4)
    sound_S[:num_faded] *= np.linspace(0, 1, num_faded, dtype=np.float32)
    sound_S[-num_faded:] *= np.linspace(1, 0, num_faded, dtype=np.float32)
    return sound_S / np.abs(sound_S).max()


def play(kinds: Sequence[str], rng: random.Random) -> tuple[np.ndarray, list[Heard]]:
    """The sounds one after another over faint noise, float32 [S], at least `MIN_GAP_S` apart; the facts."""
    chance = np.random.default_rng(rng.getrandbits(64))
    start_s, heard, pieces = rng.uniform(0.05, 0.25), [], []
    for kind in kinds:
        sound_S = make_sound(kind, chance) * rng.uniform(0.35, 0.8)
        heard.append(Heard(kind, round(start_s, 3), round(start_s + len(sound_S) / RATE_HZ, 3)))
        pieces.append((int(start_s * RATE_HZ), sound_S))
        start_s += len(sound_S) / RATE_HZ + rng.uniform(MIN_GAP_S, 0.3)
    samples_S = chance.standard_normal(int(start_s * RATE_HZ), dtype=np.float32) * rng.choice((0.001, 0.003, 0.006))
    for start, sound_S in pieces:
        samples_S[start : start + len(sound_S)] += sound_S
    return np.clip(samples_S, -1, 1), heard


def sound_for(events: Sequence[Event], duration_s: float, rng: random.Random) -> np.ndarray | None:
    """Sound track of a video, float32 [S]: a drum for each bounce, a bell for each hit; None if none."""
    if not events:
        return None
    chance = np.random.default_rng(rng.getrandbits(64))
    num_samples = int(duration_s * RATE_HZ)
    track_S = chance.standard_normal(num_samples, dtype=np.float32) * 0.002
    for event in events:
        if event.kind not in ("bounce", "hit"):
            raise ValueError(f"an event is a bounce or a hit, not {event.kind!r}")
        start = min(max(int(event.time_s * RATE_HZ), 0), num_samples)
        sound_S = make_sound("drum" if event.kind == "bounce" else "bell", chance)[: num_samples - start]
        track_S[start : start + len(sound_S)] += sound_S * rng.uniform(0.5, 0.7)
    return np.clip(track_S, -1, 1)


def sound_event(draw: Draw) -> Example:
    """Which sound, how many, which comes first or last."""
    rng, names = draw.rng, NAMES[draw.language]
    aim = draw.pick(("name", "count", "order"))
    if aim == "name":
        kinds = [draw.pick(tuple(SOUNDS))]
    elif aim == "count":
        kinds = [draw.pick(("beep", "bell", "knock", "drum", "clap", "click", "horn"))] * rng.randint(1, 5)
    else:
        kinds = rng.sample(tuple(SOUNDS), rng.randint(2, 3))
    samples_S, heard = play(kinds, rng)
    answers = {"name": names[kinds[0]]} if len(set(kinds)) == 1 else {}
    answers |= {"count": str(len(kinds)), "first": names[kinds[0]], "last": names[kinds[-1]]}
    aims = [draw.pick(("first", "last")) if aim == "order" else aim]
    if draw.is_train and aim != "name":
        rest = [other for other in answers if other not in aims and (aim == "order" or other in ("name", "count"))]
        aims += rng.sample(rest, min(len(rest), draw.num_turns() - 1))
    asked = [Asked(draw.pick(QUESTIONS[draw.language][each]), answers[each], kind=each) for each in aims]
    events = [{"kind": each.kind, "start_s": each.start_s, "end_s": each.end_s} for each in heard]
    return quiz(draw, [Audio.from_samples(samples_S, RATE_HZ)], asked, meta={"events": events})


TASKS: dict[str, Maker] = {"sound_event": sound_event}
