"""Translation: phrases and sentences of the small world between the six languages.

The example's language is the one translated into. The request is in the language of the text, or in English.
"""

from castor.diorama.draw import LANGUAGES, Draw, Maker
from castor.diorama.quiz import Asked, quiz
from castor.diorama.saying import draw_saying
from castor.diorama.scene import UNSEEN_TAG
from castor.example import Example

REQUESTS = {  # with the name of the language translated into, in the order of LANGUAGES
    "en": ("Translate into {0}: {1}", "English Chinese Spanish French German Hindi"),
    "zh": ("翻译成{0}：{1}", "英语 中文 西班牙语 法语 德语 印地语"),
    "es": ("Traduce al {0}: {1}", "inglés chino español francés alemán hindi"),
    "fr": ("Traduis en {0} : {1}", "anglais chinois espagnol français allemand hindi"),
    "de": ("Übersetze ins {0}: {1}", "Englische Chinesische Spanische Französische Deutsche Hindi"),
    "hi": ("{0} में अनुवाद करो: {1}", "अंग्रेज़ी चीनी स्पेनिश फ़्रेंच जर्मन हिंदी"),
}


def translation(draw: Draw) -> Example:
    """One saying to translate; in training up to three."""
    unseen = draw.wants_unseen()
    asked, is_unseen, source = [], False, draw.language
    for _ in range(draw.rng.randint(1, 3) if draw.is_train else 1):
        source = draw.pick([language for language in LANGUAGES if language != draw.language])
        request, names = REQUESTS["en" if draw.rng.random() < 0.3 else source]
        saying = draw_saying(draw.rng, draw.pick(("word", "phrase", "there", "placed", "relation", "command")), unseen)
        is_unseen = saying.is_unseen
        question = request.format(names.split()[LANGUAGES.index(draw.language)], saying.text(source))
        asked.append(Asked(question, saying.text(draw.language), saying.kind))
    tags = (f"{source}-{draw.language}", *((UNSEEN_TAG,) if is_unseen else ()))
    return quiz(draw, [], asked, meta={"source": source, "target": draw.language}, tags=tags)


TASKS: dict[str, Maker] = {"translation": translation}
