"""The table of tasks: every ability that is measured, its metrics, and the longest answer it calls for.

The two parsers of pictures and captions belong to the world that made them and are handed in as callables.
"""

from castor.tasks import scores
from castor.tasks.task import Metric, Task

EXACT = Metric(name="exact match", score=scores.exact_match)
FINAL_ANSWER = Metric(name="final answer", score=scores.final_answer, essence=scores.final_reply)
CHRF = Metric(name="chrF", score=scores.chrf_score)
WORD_F1 = Metric(name="word F1", score=scores.word_f1)
WORD_ERROR = Metric(name="word error rate", score=scores.word_error, higher_is_better=False, weight=scores.unit_count)
CHARACTER_ERROR = Metric(
    name="character error rate",
    score=scores.character_error,
    higher_is_better=False,
    weight=scores.character_count,
)
PSNR = Metric(name="PSNR", score=scores.reconstruction_psnr, is_fraction=False, unit="dB")

# name, title, metrics (the main one first), longest answer in tokens
_PLAIN = (
    ("image_question", "Questions about a picture", (EXACT,), 16),
    ("image_count", "Counting in a picture", (FINAL_ANSWER,), 112),
    ("dialogue", "A dialogue about a picture", (EXACT,), 16),
    ("large_text", "Reading one large word", (EXACT, CHARACTER_ERROR), 16),
    ("text_reading", "Reading text in a picture", (EXACT, CHARACTER_ERROR), 32),
    ("chart", "Questions about a chart", (EXACT,), 16),
    ("document", "Questions about a page", (EXACT,), 32),
    ("spoken_sentence", "Writing down speech", (WORD_ERROR, EXACT), 64),
    ("spoken_question", "A spoken question about a picture", (FINAL_ANSWER,), 112),
    ("sound_event", "Naming and counting sounds", (EXACT,), 24),
    ("video_question", "Questions about a video", (EXACT,), 24),
    ("translation", "Translating sentences", (EXACT, CHRF), 64),
    ("arithmetic", "Arithmetic in worked steps", (FINAL_ANSWER,), 96),
    ("reasoning", "Word problems in worked steps", (FINAL_ANSWER,), 128),
    ("reconstruction", "Pictures through the image tokenizer", (PSNR,), 1),
)

_DRAWN = (
    ("drawing", "Drawing from words", 160),
    ("redraw", "Changing a picture by words", 160),
    ("interleaved", "Words and pictures in one answer", 200),
)

# on real files; named as their sources name them
_REAL = (
    ("digit_image", "Handwritten digits", (EXACT,), 8),
    ("spoken_digit", "Spoken digits, recorded voices", (EXACT,), 8),
    ("digit_sequence", "Three digits seen, heard or both", (EXACT,), 16),
    ("sound_name", "Naming recorded sounds among 50", (EXACT, WORD_F1), 24),
    ("concept_name", "Naming pictograms among 200", (EXACT, CHARACTER_ERROR), 24),
    ("animation_name", "Naming animated pictograms", (EXACT, CHARACTER_ERROR), 24),
    ("photo_class", "Naming what a photo shows", (EXACT,), 16),
    ("true_or_false", "Is a sentence true of a picture", (EXACT,), 8),
    ("cell_count", "Counting blood cells", (EXACT, WORD_F1), 48),
    ("spoken_word", "Hearing new Mandarin words among 50", (EXACT, CHARACTER_ERROR), 16),
    ("spoken_command", "Spoken Arabic commands", (EXACT,), 8),
    ("read_speech", "Writing down read speech", (WORD_ERROR,), 128),
    ("sign_name", "Naming signs in video", (EXACT,), 8),
    ("real_translation", "Translating real sentences", (CHRF, EXACT), 96),
    ("translate_to_english", "Translating real sentences to English", (CHRF, EXACT), 96),
    ("number_words", "Numbers in words and figures", (EXACT,), 24),
    ("word_problem", "Word problems (GSM8K)", (FINAL_ANSWER,), 256),
    ("cause_or_effect", "Choosing a cause or an effect", (EXACT,), 24),
    ("formula", "Reading formulas", (EXACT, CHARACTER_ERROR), 128),
    ("art_title", "Naming paintings", (EXACT, WORD_F1), 48),
    ("dish_name", "Naming dishes", (EXACT, WORD_F1), 24),
    ("photo_caption", "Describing photos", (WORD_F1,), 48),
    ("sky_caption", "Describing pictures of the sky", (WORD_F1,), 96),
    ("clip_caption", "Describing clips", (WORD_F1,), 48),
    ("exercise", "Naming exercises", (EXACT, WORD_F1), 96),
    ("paragraph_question", "Finding the question of a paragraph", (CHRF, EXACT), 64),
    ("instruction", "Following instructions", (CHRF, EXACT), 128),
    ("summary", "Summaries of papers", (CHRF,), 96),
    ("study_question", "Questions about studies", (EXACT, WORD_F1), 96),
)


def build_tasks(*, caption_f1: scores.CaptionScorer, drawing_f1: scores.DrawingScorer) -> dict[str, Task]:
    """All tasks by name, in the order of the results table."""
    caption = Metric(name="scene F1", score=scores.caption_score(caption_f1))
    drawn = Metric(name="scene F1", score=scores.drawing_score(drawing_f1))
    tasks = [
        Task(name="caption", title="Describing a picture", metrics=(caption, WORD_F1), max_tokens=96),
        Task(name="video_caption", title="Describing a video", metrics=(EXACT, WORD_F1), max_tokens=64),
    ]
    tasks += [
        Task(name=name, title=title, metrics=metrics, max_tokens=max_tokens)
        for name, title, metrics, max_tokens in (*_PLAIN, *_REAL)
    ]
    tasks += [
        Task(name=name, title=title, metrics=(drawn,), max_tokens=max_tokens) for name, title, max_tokens in _DRAWN
    ]
    return {task.name: task for task in tasks}
