"""The demo's page: one HTML file that holds all it shows, to be mailed, kept and opened offline."""

import base64
from html import escape
from importlib.resources import files

import numpy as np

from castor.content import Document, Media, Part
from castor.demo.run import Answered, Drawn, Looked, Result
from castor.demo.seen import waveform_peaks
from castor.media.image import encode_png

_TITLE = "What Castor saw, heard and drew"
_VERDICTS = {"right": "right", "close": "nearly right", "wrong": "wrong"}


def page(result: Result) -> str:
    """The whole page as HTML; it asks nothing of the network."""
    style = files("castor.demo").joinpath("style.css").read_text(encoding="utf-8")
    body = [_header(result)]
    if result.looked:
        body.append("<h2>Looking, listening, reading</h2>")
        body += [_looked(looked) for looked in result.looked]
    if result.drawn:
        body.append("<h2>Drawing from words</h2>")
        body.append(f'<div class="gallery">{"".join(_drawn(drawn) for drawn in result.drawn)}</div>')
    body.append(_footer())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_TITLE}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(result: Result) -> str:
    answers = [answer for looked in result.looked for answer in looked.answers]
    num_read = sum(entry.num_prompt_tokens for entry in (*answers, *result.drawn))
    num_written = sum(entry.num_answer_tokens for entry in (*answers, *result.drawn))
    facts = [(f"{result.seconds:.1f} s", "for everything on this page")]
    facts += [(f"{num_read:,}", "tokens read"), (f"{num_written:,}", "tokens written")]
    if result.num_known:
        facts.insert(0, (f"{result.num_right} of {result.num_known}", "answers match the known truth"))
    tiles = "".join(f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for value, name in facts)
    return (
        f"<header><h1>{_TITLE}</h1>"
        f"<p>One model, <b>{escape(result.model_name)}</b>, was given each file below and asked about it. "
        "&ldquo;What the model sees&rdquo; is exactly what reached it: small pictures, and sound as energy "
        "in 80 pitch bands. It is a small model and may be wrong; where the true answer is known, it stands "
        "beside.</p>"
        f'<ul class="facts">{tiles}</ul></header>'
    )


def _looked(looked: Looked) -> str:
    name = escape(looked.item.path.name)
    return (
        f'<section class="card"><div class="media"><h3>{escape(looked.item.title)}<small>{name}</small></h3>'
        f"{_given(looked)}{_seen(looked)}</div>"
        f'<div class="talk">{"".join(map(_answered, looked.answers))}</div></section>'
    )


def _given(looked: Looked) -> str:
    """The file itself, as a person would see or hear it."""
    part, kind = looked.part, looked.item.kind
    alt = escape(looked.item.title)
    if isinstance(part, Document):
        pages = "".join(f'<img src="{_png_uri(page)}" alt="{alt}">' for page in part.pages(dpi=192)[:4])
        shown = f"<figure>{pages}</figure>"
    elif kind == "image":
        shown = f'<figure><img src="{_file_uri(part)}" alt="{alt}"></figure>'
    elif kind == "audio":
        shown = f'<audio controls src="{_file_uri(part)}"></audio>'
    else:
        shown = f'<video controls loop muted playsinline src="{_file_uri(part)}"></video>'
    wave = "" if looked.samples_S is None else _waveform(looked.samples_S)
    return f'<div class="given"><p class="label">what it was given</p>{shown}{wave}</div>'


def _seen(looked: Looked) -> str:
    """The pictures and the spectrogram inside the model's prompt."""
    seen = looked.seen
    shown = []
    if len(seen.pictures) == 1:
        shown.append(f'<img class="pixels" src="{_png_uri(seen.pictures[0])}" alt="the picture as the model sees it">')
    elif seen.pictures:
        tiles = (
            f'<img class="pixels" src="{_png_uri(frame)}" alt="frame {at}">'
            for at, frame in enumerate(seen.pictures, 1)
        )
        shown.append(f'<div class="strip">{"".join(tiles)}</div>')
    if seen.spectrogram_HW3 is not None:
        uri = _png_uri(seen.spectrogram_HW3)
        shown.append(f'<img class="mel" src="{uri}" alt="log-mel spectrogram: time to the right, pitch upward">')
    sizes = {f"{frame.shape[1]} × {frame.shape[0]} px" for frame in seen.pictures}
    caption = ", ".join([*sorted(sizes), f"{seen.num_media_tokens} of {seen.num_tokens} prompt tokens"])
    return (
        f'<figure class="seen"><p class="label">what the model sees</p>{"".join(shown)}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _answered(answer: Answered) -> str:
    truth = ""
    if answer.question.truth is not None:
        verdict = answer.verdict or "unknown"
        beside = "" if verdict == "right" else f"true answer: {escape(answer.question.truth)}"
        truth = f'<p class="truth"><span class="badge {verdict}">{_VERDICTS[verdict]}</span>{beside}</p>'
    return (
        f'<div class="ask">{_note(answer.question.note)}<p class="question">{escape(answer.question.text)}</p>'
        f'<p class="answer">{escape(answer.answer)}</p>{truth}{_cost(answer)}</div>'
    )


def _note(note: str) -> str:
    return f'<p class="note">{escape(note)}</p>' if note else ""


def _drawn(drawn: Drawn) -> str:
    prompt = escape(drawn.drawing.prompt)
    if drawn.image is None:
        picture = f'<div class="none">{escape(drawn.words) or "no picture came"}</div>'
        size = ""
    else:
        pixels_HWC = drawn.image.pixels()
        picture = f'<img class="pixels" src="{_png_uri(pixels_HWC)}" alt="{prompt}">'
        size = f"{pixels_HWC.shape[1]} × {pixels_HWC.shape[0]} px, enlarged · "
    shown = f'{picture}{_note(drawn.drawing.note)}<p class="prompt">{prompt}</p>'
    return f'<figure class="card">{shown}{_read_back(drawn)}{_cost(drawn, size)}</figure>'


def _read_back(drawn: Drawn) -> str:
    """What a program finds in the drawn picture, and how much of the request that is."""
    if drawn.image is None:
        return ""
    share = drawn.share_right
    badge = ""
    if share is not None:
        verdict = "right" if share == 1 else "close" if share >= 0.5 else "wrong"
        text = "as asked" if share == 1 else f"{100 * share:.0f} % of what was asked"
        badge = f'<span class="badge {verdict}">{text}</span>'
    told = f"read back by a program: {escape(drawn.read_back)}"
    return f'<p class="truth">{badge}<span class="unknown">{told}</span></p>'


def _cost(entry: Answered | Drawn, before: str = "") -> str:
    tokens = f"{entry.num_prompt_tokens} tokens in, {entry.num_answer_tokens} out"
    return f'<p class="cost">{before}{tokens} · {entry.seconds:.2f} s</p>'


def _footer() -> str:
    return (
        "<footer>The answers are the model&rsquo;s own, the most likely words at each step, not chosen among "
        "several runs. A page of examples is no measurement: <code>castor eval</code> scores every ability "
        "on unseen examples, with intervals and the score of chance beside it.</footer>"
    )


def _waveform(samples_S: np.ndarray) -> str:
    peaks = waveform_peaks(samples_S)
    bars = "".join(
        f'<rect x="{at}" y="{50 - 48 * peak:.1f}" width=".7" height="{max(1.0, 96 * peak):.1f}"/>'
        for at, peak in enumerate(peaks)
    )
    return (
        f'<svg class="wave" viewBox="0 0 {len(peaks)} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="waveform">{bars}</svg>'
    )


def _file_uri(part: Part) -> str:
    assert isinstance(part, Media), "an item of the demo is a file"
    return _data_uri(part.data, part.mime_type)


def _png_uri(pixels_HWC: np.ndarray) -> str:
    return _data_uri(encode_png(pixels_HWC), "image/png")


def _data_uri(data: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode('ascii')}"
