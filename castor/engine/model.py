"""Model: weights, tokens and image codec as one thing that answers. What `castor.load` gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from castor.checkpoint import load_json, save_json, write_atomically
from castor.config import from_dict, to_dict
from castor.content import Message, Part
from castor.engine.embed import embed_sequences
from castor.engine.engine import CACHE_TYPES, Engine, EngineConfig, check_cache_type, check_guesses
from castor.engine.published import draws, load_published, save_published
from castor.engine.request import Request
from castor.engine.sample import SamplingConfig
from castor.engine.stream import part_stream
from castor.hub import find_pulled
from castor.models.adapter import load_adapter
from castor.models.codec import ImageCodec
from castor.models.decoder import Decoder
from castor.models.load import load_model, save_model
from castor.models.packing import PackConfig, pack_decoder, packing_of
from castor.nn.lora import merge_adapters
from castor.runtime import pick_device
from castor.tokens.batch import Batch
from castor.tokens.gemma import GemmaRenderer
from castor.tokens.pack import collate
from castor.tokens.render import RenderConfig, Renderer
from castor.tokens.sequence import Sequence
from castor.tokens.space import IdSpace
from castor.tokens.text import Tokenizer

Tools = Seq[Mapping[str, Any]]
Prompt = str | Part | Message | Seq[str | Part] | Seq[Message]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MOST_ROWS, PREFILL_TOKENS = 64, 2048  # of one call: answered at once, read in a step
SHIPPED = Path(__file__).resolve().parent.parent / "weights"


def load(
    name: str | Path = "atom",
    *,
    device: str = "auto",
    precision: str = "float32",
    adapter: str | Path | None = None,
    quantize: str | None = None,
    cache: str | None = None,
    guess: int = 0,
) -> Model:
    """The model in a folder, the shipped one of that name ("atom"), or one that `castor pull NAME` fetched.

    A folder is one of ours, with castor.json, or a published checkpoint in Hugging Face's layout. `precision` is the
    type the weights compute in: "float32" or "bfloat16". `adapter` is a folder in PEFT's layout, whose adapter is put
    into the weights. `quantize` "int4" or "int8" keeps the matrices in so many bits from then on; a folder that
    `castor quantize` wrote says so itself. `cache` "int8" keeps the keys and values of what was read and said in 8
    bits. `guess` is how many ids are looked up ahead, in what was read and said, while one or two answers are written:
    the same answers, sooner where they repeat something. Raises ValueError naming what is missing.
    """
    cache = cache or CACHE_TYPES[0]
    check_cache_type(cache)
    check_guesses(guess)
    folder, device = find_folder(name), pick_device(device)
    if adapter is None:
        model = Model.load(folder, device=device, precision=precision, quantize=quantize)
    else:
        model = _adapted(folder, adapter, device, precision, quantize)
    model.cache_type, model.num_guesses = cache, guess
    return model


def _adapted(folder: Path, adapter: str | Path, device: str, precision: str, quantize: str | None) -> Model:
    """The model with an adapter put into its weights; ValueError where these are packed."""
    model = Model.load(folder, device=device, precision=precision)
    if packing_of(model.decoder) is not None:
        raise ValueError(f"{folder}: an adapter is put into whole weights; these are packed")
    load_adapter(model.decoder, adapter)
    merge_adapters(model.decoder)
    if quantize is not None:
        pack_decoder(model.decoder, PackConfig.of_name(quantize))
    return model


def find_folder(name: str | Path) -> Path:
    """Where the model of that name lies; ValueError says what to do where it is nowhere. Nothing is fetched."""
    for folder in (Path(name), SHIPPED / name):
        if any((folder / file).is_file() for file in ("castor.json", "config.json")):
            return folder
    if (pulled := find_pulled(str(name))) is not None:
        return pulled
    shipped = sorted(path.parent.name for path in SHIPPED.glob("*/castor.json"))
    known = f"neither a model folder (with castor.json or config.json) nor a shipped model {shipped}"
    if str(name).count("/") == 1 and not str(name).startswith((".", "/", "~")) and not Path(name).exists():
        raise ValueError(f"{str(name)!r}: {known}; to fetch it: castor pull {name}")
    raise ValueError(f"{str(name)!r}: {known}")


class Model:
    """A model ready to answer (`generate`, `stream`, `logits`) or to make vectors (`embed`).

    A prompt is a text, a part, a list of texts and parts (one user message), a message, or a list of messages.
    """

    def __init__(
        self,
        decoder: Decoder,
        renderer: Renderer | GemmaRenderer,
        codec: ImageCodec | None,
        *,
        card: dict[str, Any] | None = None,
    ) -> None:
        self.decoder, self.renderer, self.codec = decoder.eval(), renderer, codec
        self.card = card or {}
        self.cache_type = CACHE_TYPES[0]  # of keys and values, unless an engine's config says
        self.num_guesses = 0  # ids guessed ahead where few requests speak, unless an engine's config says

    @property
    def tokenizer(self) -> Tokenizer:
        """Text <-> ids."""
        return self.renderer.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.device

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "cpu", precision: str = "float32", quantize: str | None = None
    ) -> Model:
        """The model that `save` wrote to `folder`, or a published checkpoint; see `castor.load`."""
        folder = Path(folder)
        dtype, pack = _dtype(precision), None if quantize is None else PackConfig.of_name(quantize)
        if not (folder / "castor.json").is_file() or draws(folder):
            return cls._load_published(folder, device, dtype, pack)
        about = load_json(folder / "castor.json")
        if not isinstance(about, dict) or not all(isinstance(about.get(key), dict) for key in ("space", "renderer")):
            raise ValueError(f"{folder / 'castor.json'}: needs the objects space and renderer")
        if missing := sorted(set(to_dict(RenderConfig())) - set(about["renderer"])):
            raise ValueError(
                f"{folder / 'castor.json'}: renderer.{missing[0]} is missing; media would be laid out anew"
            )
        codec = _codec(folder, device)
        space = from_dict(IdSpace, about["space"])
        renderer = Renderer(
            Tokenizer.load(folder),
            space,
            from_dict(RenderConfig, about["renderer"]),
            encode_image=codec.encode if codec else None,
            decode_image=codec.decode if codec else None,
        )
        decoder = load_model(folder, device=device, dtype=dtype, pack=pack)
        if renderer.tokenizer.vocab_size != space.num_text or decoder.config.text.vocab_size != space.vocab_size:
            raise ValueError(
                f"{folder}: castor.json states {space.num_text} text pieces and {space.vocab_size} ids, the tokenizer "
                f"has {renderer.tokenizer.vocab_size} and the decoder {decoder.config.text.vocab_size}"
            )
        return cls(decoder, renderer, codec, card=about.get("card", {}))

    @classmethod
    def _load_published(cls, folder: Path, device: str, dtype: torch.dtype, pack: PackConfig | None) -> Model:
        decoder, renderer = load_published(folder, device=device, dtype=dtype, pack=pack)
        codec, num_codes = _codec(folder, device), renderer.space.num_codes
        if num_codes != (0 if codec is None else codec.config.num_codes):
            raise ValueError(f"{folder}: {num_codes} image codes, and no codec of so many beside them")
        if codec is None:
            return cls(decoder, renderer, None)
        renderer.encode_image, renderer.decode_image = codec.encode, codec.decode
        return cls(decoder, renderer, codec, card=load_json(folder / "castor.json").get("card", {}))

    def save(self, folder: str | Path, *, precision: str = "bfloat16") -> None:
        """Write everything to `folder`: Hugging Face layout, with castor.json, tokenizer and codec beside it."""
        folder = Path(folder)
        dtype = _dtype(precision)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.decoder, folder, dtype=dtype)
        if self.codec is not None:
            self.codec.save(folder)
        if isinstance(self.renderer, GemmaRenderer):
            save_published(self.renderer, folder, self.card)
            return
        write_atomically(folder / self.tokenizer.FILE, self.tokenizer.model)
        about = {
            "space": to_dict(self.renderer.space),
            "renderer": to_dict(self.renderer.config),
            "card": self.card,
        }
        save_json(folder / "castor.json", about)

    def generate(self, prompt: Prompt, *, tools: Tools = (), thinking: bool = False, **sampling: Any) -> Message:
        """The model's answer. `sampling` are the fields of `SamplingConfig`: max_tokens, temperature, seed, ...

        `tools` (function declarations in the Gemini API's form) and `thinking` are for published checkpoints.

        >>> model.generate([castor.Image("shapes.png"), "How many red shapes are there?"]).text
        """
        return self.generate_batch([_messages(prompt)], tools=tools, thinking=thinking, **sampling)[0]

    def generate_batch(
        self, prompts: Iterable[Prompt], *, tools: Tools = (), thinking: bool = False, **sampling: Any
    ) -> list[Message]:
        """Answers to many prompts at once, each as if it were alone, but for the rounding of larger matrix products."""
        conversations = [_messages(prompt) for prompt in prompts]
        if not conversations:
            return []
        sequences = [self.encode_prompt(messages, tools=tools, thinking=thinking) for messages in conversations]
        engine, requests = self._submitted(sequences, _sampling(sampling))
        while engine.step():
            pass
        return [request.result().message for request in requests]

    def stream(self, prompt: Prompt, *, tools: Tools = (), thinking: bool = False, **sampling: Any) -> Iterator[Part]:
        """The answer as it comes: `Text` pieces, and an `Image` whenever a picture is finished."""
        sequence = self.encode_prompt(_messages(prompt), tools=tools, thinking=thinking)
        engine, (request,) = self._submitted([sequence], _sampling(sampling))
        writer = part_stream(self.renderer, request.sampling.stop)
        num_given, goes_on = 0, True
        while goes_on:
            goes_on = engine.step()
            for said in request.said[num_given:]:
                yield from writer.take(said.token_id)
            num_given = len(request.said)
        yield from writer.finish()

    def _submitted(self, sequences: list[Sequence], config: SamplingConfig) -> tuple[Engine, list[Request]]:
        """An engine for these prompts alone, so that weights may change from call to call."""
        for sequence in sequences:
            self.decoder.check_length(len(sequence), config.max_tokens)
        sizes = sorted(len(sequence) + config.max_tokens + 2 * EngineConfig.block_tokens for sequence in sequences)
        shape = EngineConfig(
            max_rows=min(len(sequences), MOST_ROWS),
            token_budget=PREFILL_TOKENS,
            max_waiting=len(sequences),
            cache_tokens=sum(sizes[-MOST_ROWS:]),
        )
        engine = Engine(self, shape)
        return engine, [engine.submit_tokens(sequence, config) for sequence in sequences]

    def encode_prompt(self, messages: list[Message], *, tools: Tools = (), thinking: bool = False) -> Sequence:
        """A conversation up to where the answer begins; ValueError where the model does not know what is asked for."""
        if isinstance(self.renderer, GemmaRenderer):
            return self.renderer.encode(messages, reply=True, tools=tools, thinking=thinking)
        if tools or thinking:
            raise ValueError("this model knows neither tools nor thinking")
        return self.renderer.encode(messages, reply=True)

    @torch.inference_mode()
    def logits(self, messages: Prompt) -> torch.Tensor:
        """Float logits [T, V] of a conversation: row t scores the id that follows token t."""
        sequence = self.renderer.encode(_messages(messages))
        self.decoder.check_length(len(sequence))
        batch: Batch = collate([[sequence]], len(sequence)).to(self.device)
        return self.decoder(batch)[0].float()

    @torch.inference_mode()
    def embed(self, *prompts: Prompt, dimensions: int | None = None, task: str | None = None) -> torch.Tensor:
        """One vector of length 1 for every prompt, float32 [N, E] on the CPU, whatever mix of media a prompt is.

        `dimensions` keeps that many numbers of each, made a vector of length 1 again (Matryoshka, Kusupati et al.
        2022). `task` is the name of what the vectors are for, such as "Retrieval-query"; it puts the published words
        for it, or the checkpoint's own, before a prompt's text. ValueError where the model has no head for it, or not
        these.

        >>> model.embed("a red circle", [castor.Image("photo.png")], dimensions=256)
        """
        self.check_dimensions(dimensions)
        sequences = [self.encode_vector(_messages(prompt), task) for prompt in prompts]
        vectors_NE = embed_sequences(self.decoder, sequences, self.device)
        return vectors_NE if dimensions is None else F.normalize(vectors_NE[:, :dimensions], dim=-1)

    @property
    def vector_dim(self) -> int | None:
        """Numbers in the vectors that `embed` makes; None where it makes none."""
        return self.decoder.config.text.embedding_dim if hasattr(self.renderer, "encode_task") else None

    def check_dimensions(self, dimensions: int | None) -> None:
        """ValueError where this model makes no vectors, or none of so many numbers."""
        most = self.vector_dim
        if most is None:
            raise ValueError(
                "this checkpoint has no embedding head; it writes, but does not embed. One of ours gets a head by: "
                "castor train embed model=FOLDER out=FOLDER"
            )
        if dimensions is not None and not 1 <= dimensions <= most:
            raise ValueError(f"dimensions={dimensions} must be from 1 to {most}, the numbers in this model's vectors")

    def encode_vector(self, messages: list[Message], task: str | None = None) -> Sequence:
        """What the vector of one message is made of, as `embed` makes it; ValueError as there."""
        self.check_dimensions(None)
        encode = getattr(self.renderer, "encode_task", None)
        assert encode is not None, "what has vectors has a way to ask for them"
        return encode(messages, task)


def _codec(folder: Path, device: str) -> ImageCodec | None:
    """The image codec beside a model, where there is one."""
    return ImageCodec.load(folder).to(device).eval() if (folder / "codec.safetensors").is_file() else None


def _dtype(precision: str) -> torch.dtype:
    if precision not in DTYPES:
        raise ValueError(f"precision={precision!r} is not one of {sorted(DTYPES)}")
    return DTYPES[precision]


def _sampling(options: dict[str, Any]) -> SamplingConfig:
    if isinstance(options.get("stop"), str):
        options["stop"] = (options["stop"],)
    return from_dict(SamplingConfig, options)


def _messages(prompt: Prompt) -> list[Message]:
    if isinstance(prompt, Message):
        return [prompt]
    items = [prompt] if isinstance(prompt, str) or not isinstance(prompt, Seq) else list(prompt)
    messages = [item for item in items if isinstance(item, Message)]
    parts = [item for item in items if not isinstance(item, Message)]
    if bool(messages) == bool(parts):
        raise ValueError("a prompt is texts and parts, or messages; not both, and not nothing")
    return messages or [Message.user(*parts)]
