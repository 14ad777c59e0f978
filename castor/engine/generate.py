"""Generation: prompts in, ids out one step at a time, for any number of prompts at once.

Every prompt is a row of one cache; rows differ in length and end on their own. A row does not see its neighbours:
masks keep rows apart, and each row has its own random generator. Joining a running batch comes later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import NamedTuple

import torch

from castor.engine.sample import SamplingConfig, grammar_of, pick
from castor.models.decoder import Decoder
from castor.tokens.batch import Batch
from castor.tokens.gemma import GemmaRenderer
from castor.tokens.pack import collate
from castor.tokens.render import Renderer
from castor.tokens.sequence import Sequence

AnyRenderer = Renderer | GemmaRenderer


class Said(NamedTuple):
    """One id that a row said; `row` counts the prompts."""

    row: int
    token_id: int


@torch.inference_mode()
def generate_ids(
    decoder: Decoder, renderer: AnyRenderer, prompts: Seq[Sequence], config: SamplingConfig, *, draw: bool
) -> Iterator[Said]:
    """Ids of the replies, a step of every row that still speaks at a time; the id that ends a turn is not given."""
    rows = _Rows(decoder, renderer, prompts, config, draw)
    logits_BV = rows.prefill(prompts)
    while True:
        spoken = rows.choose(logits_BV)
        yield from spoken
        if not rows.active:
            return
        logits_BV = rows.step()


class _Rows:
    """The state of the rows that still speak."""

    def __init__(
        self,
        decoder: Decoder,
        renderer: AnyRenderer,
        prompts: Seq[Sequence],
        config: SamplingConfig,
        draw: bool,
    ) -> None:
        self.decoder, self.renderer, self.config = decoder, renderer, config
        self.grammar = grammar_of(renderer.space, may_draw=draw)
        self.stop_ids = renderer.stop_ids
        self.device = next(decoder.parameters()).device
        self.said: list[list[int]] = [[] for _ in prompts]
        self.next_position = [len(prompt) for prompt in prompts]
        self.active = list(range(len(prompts)))
        self.generators = [torch.Generator().manual_seed(config.seed) for _ in prompts]

    def prefill(self, prompts: Seq[Sequence]) -> torch.Tensor:
        """Read all prompts at once; float logits [B, V] of each one's first reply id."""
        width = max(len(prompt) for prompt in prompts)
        self.decoder.check_length(width, self.config.max_tokens)
        batch = collate([[prompt] for prompt in prompts], width).to(self.device)
        room = width + self.config.max_tokens + self.grammar.max_cells + 8
        self.cache = self.decoder.new_cache(len(prompts), room)
        hidden_BTD = self.decoder.hidden(batch, self.cache)
        last_B = torch.tensor(self.next_position, device=self.device) - 1
        return self._project(hidden_BTD[torch.arange(len(prompts), device=self.device), last_B])

    def step(self) -> torch.Tensor:
        """Feed each row's last id; float logits [B, V] of the next one."""
        shape = (len(self.active), 1)
        ids_BT = torch.tensor([[self.said[row][-1]] for row in self.active])
        position_BT = torch.tensor([[self.next_position[row]] for row in self.active])
        empty = collate([[]], 1)
        batch = dataclasses.replace(
            empty,
            ids_BT=ids_BT,
            position_BT=position_BT,
            doc_BT=torch.zeros(shape, dtype=torch.int64),
            block_BT=torch.full(shape, -1),
            target_BT=torch.full(shape, -100),
        )
        for row in self.active:
            self.next_position[row] += 1
        return self._project(self.decoder.hidden(_moved(batch, self.device), self.cache)[:, -1])

    def choose(self, logits_BV: torch.Tensor) -> list[Said]:
        """Pick an id for every active row, and retire the rows that ended."""
        spoken: list[Said] = []
        staying: list[int] = []
        for index, row in enumerate(self.active):
            allowed_V = self.grammar.allowed_V(self.said[row])
            logits_V = logits_BV[index].masked_fill(~allowed_V, -torch.inf)
            token_id = pick(logits_V, self.config, self.generators[row], is_code=self.grammar.is_code(allowed_V))
            if token_id in self.stop_ids:
                continue
            self.said[row].append(token_id)
            spoken.append(Said(row, token_id))
            if not self._is_over(row):
                staying.append(index)
        if len(staying) < len(self.active):
            self.active = [self.active[index] for index in staying]
            if self.active:
                self.cache = self.cache.select(staying)
        return spoken

    def _is_over(self, row: int) -> bool:
        said = self.said[row]
        if len(said) >= self.config.max_tokens and not self.grammar.is_drawing(said):
            return True
        if not self.config.stop:
            return False
        text = self.renderer.tokenizer.decode([i for i in said if i < self.renderer.space.num_text])
        return any(stop in text for stop in self.config.stop)

    def _project(self, hidden_BD: torch.Tensor) -> torch.Tensor:
        return self.decoder.project(hidden_BD).float().cpu()


def _moved(batch: Batch, device: torch.device) -> Batch:
    return batch if device.type == "cpu" else batch.to(device)
