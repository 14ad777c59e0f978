"""gemini-cli without a terminal, talking to a published checkpoint behind the server.

CASTOR_GEMINI_CLI is the path of its `gemini`, as `npm install @google/gemini-cli` puts it into node_modules/.bin.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import Served, serving

import castor
from castor.content import FunctionCall, Message, Part, Text

published = pytest.importorskip("published")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
CLI = os.environ.get("CASTOR_GEMINI_CLI", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CLI, reason="CASTOR_GEMINI_CLI names no program")]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("checkpoint")
    published.write_checkpoint(folder)
    with serving(castor.load(folder, device="cpu"), max_tokens=400) as running:
        yield running


def speak(served: Served, *turns: Part) -> None:
    """Makes the untrained model answer each request in turn with these parts, and all others with the last."""
    renderer, engine = served.model.renderer, served.service.answerer.engine
    choose = type(engine)._choose
    waiting = []
    for part in turns:
        sequence = renderer.encode([Message.user("x"), Message("model", [part])])
        waiting.append(sequence.ids_T[sequence.is_target_T].tolist())
    said: list[int] = []

    def chosen(request: Any, logits_V: torch.Tensor) -> Any:
        next_id = waiting[0][len(said)] if len(said) < len(waiting[0]) else renderer.stop_id
        said.append(next_id)
        if next_id in renderer.stop_ids:
            said.clear()
            del waiting[: len(waiting) > 1]
        wanted_V = torch.full_like(logits_V, -30.0)
        wanted_V[next_id] = 30.0
        return choose(engine, request, wanted_V)

    engine._choose = chosen


def ask(served: Served, folder: Path, prompt: str) -> Any:
    home = folder / "home" / ".gemini"
    home.mkdir(parents=True)
    (home / "settings.json").write_text(json.dumps({"security": {"auth": {"selectedType": "gemini-api-key"}}}))
    environment = os.environ | {
        "HOME": str(folder / "home"),
        "GEMINI_API_KEY": "local",
        "GOOGLE_GEMINI_BASE_URL": served.url,
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
    }
    done = subprocess.run(
        [CLI, "-p", prompt, "-m", "tiny", "--output-format", "json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_answers(served: Served, tmp_path: Path) -> None:
    speak(served, Text("The tide is at nine."))
    found = ask(served, tmp_path, "When is the tide?")
    assert found["response"] == "The tide is at nine." and "error" not in found
    assert found["stats"]["models"]["tiny"]["tokens"]["prompt"] > 1000, "its own instructions were read"


def test_it_reads_a_file_for_the_model(served: Served, tmp_path: Path) -> None:
    """The model's call goes out, the client runs its tool, and the model gets what the tool found."""
    (tmp_path / "notes.txt").write_text("the tide is at nine\n")
    speak(served, FunctionCall("read_file", {"file_path": "notes.txt"}), Text("At nine."))
    found = ask(served, tmp_path, "When is the tide? It is in notes.txt.")
    assert found["response"] == "At nine." and "error" not in found
    assert found["stats"]["tools"]["byName"]["read_file"]["success"] == 1
