"""Other versions and languages of the clients, each in an environment of its own.

CASTOR_GENAI names Pythons that have google-genai, CASTOR_LANGCHAIN those with LangChain's packages (paths with colons
between them), CASTOR_NODE a folder whose node_modules hold @google/genai and openai.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served, new_model, running

import castor
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.server.app import create_app
from castor.server.config import ServerConfig
from castor.server.models import Offer
from castor.tokens.render import Renderer

published = pytest.importorskip("published")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).parent / "clients"


def others(name: str) -> list[str]:
    return [path for path in os.environ.get(name, "").split(":") if path]


CASES = [
    *((python, SCRIPTS / "with_genai.py") for python in (sys.executable, *others("CASTOR_GENAI"))),
    *((python, SCRIPTS / "with_langchain.py") for python in others("CASTOR_LANGCHAIN")),
    *((f"node:{folder}", SCRIPTS / "with_javascript.mjs") for folder in others("CASTOR_NODE")),
]


@pytest.fixture(scope="module")
def served(
    tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("vectors")
    published.write_tower_checkpoint(folder, "embedding_gemma2")
    model = new_model(tiny_config, renderer, codec)
    offers = [Offer.of_model(model, ("tiny",)), Offer.of_model(castor.load(folder, device="cpu"), ("vectors",))]
    with running(Served(create_app(offers, ServerConfig(max_tokens=12)), model)) as server:
        yield server


@pytest.mark.parametrize(("runner", "script"), CASES)
def test_a_client_gets_what_it_asks_for(served: Served, runner: str, script: Path) -> None:
    is_node = runner.startswith("node:")
    command = ["node", str(script)] if is_node else [runner, str(script)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    folder = runner.removeprefix("node:") if is_node else None
    done = subprocess.run(
        [*command, served.url], capture_output=True, text=True, timeout=300, env=environment, cwd=folder
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found["client"], f"{sum(one is True for one in found['results'].values())} of {len(found['results'])}")
    assert {name: one for name, one in found["results"].items() if one is not True} == {}
