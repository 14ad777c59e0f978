"""What a server may spend and where it keeps files."""

from __future__ import annotations

from dataclasses import dataclass, field

from castor.media.limits import Limits

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Limits of one server; each is reported to the client that is beyond it."""

    name: str = "atom"  # the model's name in addresses
    aliases: tuple[str, ...] = ()  # further names of the same model
    max_rows: int = 16  # requests that are answered together
    max_waiting: int = 16  # requests that wait besides; more are answered 429
    max_body_bytes: int = 64 * MIB  # of one request, except for the pieces of an upload
    body_timeout_s: float = 60.0  # until a request's body must have arrived
    max_tokens: int = 1024  # of an answer where the request states no number
    max_candidates: int = 8
    max_vectors: int = 2048  # of one request
    vector_tokens: int = 8192  # of what one vector is made of; memory grows with the square
    cors: tuple[str, ...] = ()  # origins whose pages may ask; "*": all
    rates_safety: bool = True  # rate texts by the small classifier
    allows_fetch: bool = False  # fetch media from public addresses
    is_replica: bool = False  # one of several: it keeps nothing between requests
    idle_s: float = 0.0  # after which a model that nobody asks for is unloaded; 0: never
    memory_bytes: int = 0  # of the weights of all loaded models; 0: no limit
    piece_s: float = 0.03  # between the pieces of a streamed answer, after the first; 0: a piece for every token
    drain_s: int = 60  # after SIGTERM, until answers under way are broken off
    files_folder: str = ""  # where uploaded files lie; empty: a folder that goes with the server
    file_bytes: int = 256 * MIB  # of one uploaded file
    files_bytes: int = 2048 * MIB  # of all of them
    files_hours: float = 48.0  # that an uploaded file is kept
    state_bytes: int = 1024 * MIB  # of cached contents, interactions and batches
    stores_bytes: int = 4096 * MIB  # of file search stores, documents and indexes
    upload_hours: float = 1.0  # that an unfinished upload is kept
    limits: Limits = field(
        default_factory=lambda: Limits(
            max_bytes=256 * MIB, max_pixels=32_000_000, max_seconds=1200.0, max_total_pixels=128_000_000
        )
    )

    def __post_init__(self) -> None:
        counts = ("max_rows", "max_waiting", "max_tokens", "max_candidates", "max_vectors", "vector_tokens")
        for name in (*counts, "max_body_bytes", "file_bytes", "files_bytes", "stores_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("idle_s", "memory_bytes", "piece_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        check_names(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the model, its own first."""
        return (self.name, *(alias for alias in self.aliases if alias != self.name))


def check_names(names: tuple[str, ...]) -> None:
    """ValueError for a name that an address cannot hold."""
    for name in names:
        if not name or any(c.isspace() or not c.isprintable() or c in "?#%" for c in name):
            raise ValueError(f"a model's name in addresses has no spaces, '?', '#' or '%', and is not {name!r}")
