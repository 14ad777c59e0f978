"""Gallery: one web page with samples of every task, pictures, sounds and films inside it, to look at by eye.

The page needs no network and no script. Leaves out anything about a model: it shows the data alone.
"""

import base64
import html
from pathlib import Path

from castor.content import Audio, Document, Image, Media, Message, Part, Text, Video
from castor.diorama import spoken
from castor.diorama.speech import speech_available
from castor.diorama.world import World
from castor.example import Example
from castor.media.image import encode_png

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1d2228, #e7e9ec); --dim: light-dark(#66707c, #9aa4b0);
  --page: light-dark(#f4f3ef, #14171b);
  --card: light-dark(#fff, #1d2127); --line: light-dark(#dedcd5, #313843);
  --user: light-dark(#eef3fb, #232c3a); --model: light-dark(#eef8ef, #20302a); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.2rem 4rem;
  background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.9rem; }
h2 { margin: 2.4rem 0 .8rem; font-size: 1.15rem; } p { color: var(--dim); }
nav { display: flex; flex-wrap: wrap; gap: .3rem .9rem; } a { color: inherit; }
section > div { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: .9rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: .8rem; }
.user, .model, .system { border-radius: .6rem; padding: .5rem .7rem; margin: .4rem 0; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.user { background: var(--user); margin-right: 1rem; } .model { background: var(--model); margin-left: 1rem; }
.tags { color: var(--dim); font-size: .8rem; }
img, video { display: block; width: 10rem; border-radius: .4rem; margin: .3rem 0;
  border: 1px solid var(--line);
  image-rendering: pixelated; background: #fff; }
audio { display: block; width: 100%; height: 2.2rem; margin: .3rem 0; }
"""


def _uri(data: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def _part(part: Part) -> str:
    if isinstance(part, Text):
        return html.escape(part.text)
    assert isinstance(part, Media), part
    name = html.escape(part.name)
    if isinstance(part, Image):
        return f'<img alt="{name}" src="{_uri(part.data, part.mime_type)}">'
    if isinstance(part, Audio):
        return f'<audio controls preload="none" src="{_uri(part.data, part.mime_type)}"></audio>'
    if isinstance(part, Video):
        return f'<video controls loop muted autoplay src="{_uri(part.data, part.mime_type)}"></video>'
    assert isinstance(part, Document), part
    return "".join(f'<img alt="page" src="{_uri(encode_png(page), "image/png")}">' for page in part.pages())


def _message(message: Message) -> str:
    return f'<div class="{message.role}" dir="auto">{"".join(_part(part) for part in message.parts)}</div>'


def _example(example: Example) -> str:
    turns = "".join(_message(message) for message in example.messages)
    tags = html.escape(" · ".join((example.language, *example.tags)))
    return f'<article lang="{example.language}">{turns}<div class="tags">{tags}</div></article>'


def write_gallery(world: World, path: str | Path, per_task: int = 3) -> Path:
    """One HTML file with the first `per_task` examples of every task; spoken ones only where there is speech.

    Returns the path written. `per_task` below one raises ValueError.
    """
    if per_task < 1:
        raise ValueError(f"per_task must be at least 1, got {per_task}")
    is_heard = world.speech and speech_available()
    tasks = [task for task in world.tasks if is_heard or task not in spoken.NEEDS_SPEECH]
    sections = [
        f'<section id="{task}"><h2>{task.replace("_", " ").capitalize()}</h2><div>'
        + "".join(_example(world.example(task, index)) for index in range(per_task))
        + "</div></section>"
        for task in tasks
    ]
    links = " ".join(f'<a href="#{task}">{task.replace("_", " ")}</a>' for task in tasks)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Diorama</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>Diorama</h1>"
        f"<p>Samples of the small world: seed {world.seed}, {world.split} split, {per_task} per task.</p>"
        f"<nav>{links}</nav>{''.join(sections)}</body></html>"
    )
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path
