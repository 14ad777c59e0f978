"""A conversation in the terminal, to which files can be shown."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castor.content import Message, Part
from castor.demo.say import MEDIA, part_of, say

if TYPE_CHECKING:
    from castor.engine.model import Model

HELP = """\
  write a line and press Enter to ask; what you attached goes with it
  /image FILE  /audio FILE  /video FILE  /document FILE     show the model a file
  /draw WORDS     ask for a picture, saved in this folder
  /reset          forget the conversation
  /help           this list
  /quit           leave (so does Ctrl-D)"""


class Conversation:
    """What was said so far, and what goes with the next line."""

    def __init__(self, model: "Model", **sampling: Any) -> None:
        self.model, self.sampling = model, sampling
        self.messages: list[Message] = []
        self.attached: list[Part] = []

    def take(self, line: str) -> bool:
        """Answers a line or obeys a command; False when the conversation is over.  Raises ValueError."""
        command, _, rest = line.strip().partition(" ")
        if command == "/quit":
            return False
        if command == "/reset":
            self.messages, self.attached = [], []
            print("(a new conversation)")
        elif command == "/help":
            print(HELP)
        elif command.startswith("/") and command[1:] in MEDIA:
            self._attach(command[1:], rest.strip().strip("'\""))
        elif command.startswith("/") and command != "/draw":
            raise ValueError(f"no command is called {command}; /help lists them")
        elif line.strip():
            self._ask(f"Draw {rest.strip()}" if command == "/draw" else line.strip())
        return True

    def _attach(self, kind: str, path: str) -> None:
        if not path:
            raise ValueError(f"/{kind} needs a file: /{kind} FILE")
        self.attached.append(part_of(kind, path))
        print(f"({path} goes with your next line)")

    def _ask(self, words: str) -> None:
        asked = Message.user(*self.attached, words)
        try:
            answer = say(self.model, [*self.messages, asked], **self.sampling)
        except ValueError:
            self.attached = []  # a file that cannot be read must not spoil the next line, too
            raise
        self.messages, self.attached = [*self.messages, asked, answer], []


def chat(model: "Model", **sampling: Any) -> None:
    """Reads lines until /quit or the end of input; a mistake is told, Ctrl-C stops one answer."""
    conversation = Conversation(model, **sampling)
    _remember_lines()
    print("A small model: it may be wrong.  /help lists what you can show it, /quit leaves.")
    while True:
        try:
            if not conversation.take(input("> ")):
                return
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(stopped)")
        except (ValueError, OSError) as error:
            print(f"castor: {error}", file=sys.stderr)


def _remember_lines() -> None:
    """Line editing, and a history kept between conversations, where the platform has them."""
    import atexit
    import contextlib

    try:
        import readline
    except ImportError:
        return
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "castor"
    history = folder / "history"
    with contextlib.suppress(OSError):
        readline.read_history_file(history)

    def save() -> None:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(1000)
            readline.write_history_file(history)

    atexit.register(save)
