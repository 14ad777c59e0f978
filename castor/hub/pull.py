"""`castor pull`: a published model from the Hugging Face Hub, or a mirror of it, into the Hub's cache or a folder.

Only weights (safetensors), JSON, the tokenizer and the chat template are fetched: never pickle, never code. Names,
sizes and hashes come from the Hub's listing, the files through `huggingface_hub` (extra "hub"), which knows tokens,
mirrors (HF_ENDPOINT) and offline mode (HF_HUB_OFFLINE). Its own downloads start a broken file anew; these go on where
they stopped, in `NAME.part`, and are checked against their hash before they get their name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from castor.hub.cache import COMMIT, find_pulled, model_folder
from castor.log import LiveLine

SUFFIXES = (".safetensors", ".json", ".jinja")
NAMES = ("tokenizer.model",)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CHUNK_BYTES = 1 << 20
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Remote:
    """One file of a model: its size in bytes and its hash, a sha256 or the one that git gives."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str

    @property
    def key(self) -> str:
        """What the cache calls its content."""
        return self.sha256 or self.git_sha1


def pull(name: str, *, to: str | Path | None = None, revision: str = "main") -> Path:
    """The folder of a model, after fetching what of it is not here yet.

    ValueError in one line for a model that is missing or gated, no network, an interrupted transfer, a full disk, a
    wrong hash. What has arrived stays, and the same command goes on with it.
    """
    cached = model_folder(name)
    hub = _library()
    if hub.constants.is_offline_mode():
        if (found := find_pulled(name, revision)) is None or to is not None:
            raise ValueError(f"{name}: offline (HF_HUB_OFFLINE), and not among the pulled models")
        return found
    with _plain_errors(name, revision):
        commit, files = _listing(hub, name, revision)
        folder = Path(to) if to is not None else cached / "blobs"
        paths = {file: folder / (file.name if to is not None else file.key) for file in files}
        _check_disk(folder, paths, name)
        _fetch_all(hub, name, commit, paths)
    if to is not None:
        return Path(to)
    snapshot = cached / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    for file, path in paths.items():
        _link(snapshot / file.name, path)
    if commit != revision:
        reference = cached / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit, encoding="ascii")
    return snapshot


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
    except ImportError:
        raise ValueError("castor pull needs the package huggingface_hub: pip install 'castor[hub]'") from None
    huggingface_hub.logging.set_verbosity_error()
    return huggingface_hub


def _listing(hub: Any, name: str, revision: str) -> tuple[str, list[Remote]]:
    """The commit of a revision, and the files of it that are wanted."""
    api = hub.HfApi(library_name="castor")
    commit = api.model_info(name, revision=revision).sha
    found, seen = [], []
    for entry in api.list_repo_tree(name, revision=commit):
        seen.append(entry.path)
        plain = "/" not in entry.path and "\\" not in entry.path and not entry.path.startswith(".")
        if plain and hasattr(entry, "size") and (entry.path.endswith(SUFFIXES) or entry.path in NAMES):
            sha256 = entry.lfs.sha256 if entry.lfs is not None else None
            found.append(Remote(name=entry.path, size=entry.size, sha256=sha256, git_sha1=entry.blob_id))
    odd = [file.name for file in found if not HASH.fullmatch(file.key)]
    if odd or not COMMIT.fullmatch(str(commit)):
        raise ValueError(f"{name}: the Hub's listing states no proper hash for {odd[0] if odd else 'the commit'}")
    if not any(file.name.endswith(".safetensors") for file in found):
        pickles = [path for path in seen if path.endswith(PICKLES)]
        why = f"; {pickles[0]} is pickle, which can run code, and is never fetched" if pickles else ""
        raise ValueError(f"{name}: has no safetensors{why}")
    if not any(file.name == "config.json" for file in found):
        raise ValueError(f"{name}: has no config.json, so it is no model")
    return commit, sorted(found, key=lambda file: (file.size, file.name))


def _check_disk(folder: Path, paths: dict[Remote, Path], name: str) -> None:
    """ValueError with both numbers where the files that are not here yet are larger than the disk's free space."""
    needed = sum(file.size - _size(_part(path)) for file, path in paths.items() if not path.is_file())
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(f"{name}: {needed / 1e9:,.1f} GB are still to come, {free / 1e9:,.1f} GB are free in {folder}")


def _fetch_all(hub: Any, name: str, commit: str, paths: dict[Remote, Path]) -> None:
    """Every file that is not here yet, smallest first, with a line that shows how far it is."""
    progress = _Progress(f"pulling {name}", sum(file.size for file in paths))
    for file, path in paths.items():
        if path.is_file() and _is_whole(path, file):
            progress.add(file.size, fetched=False)
            continue
        _fetch(hub, name, commit, file, path, progress)
    progress.line.close(f"{progress.line.total / 1e9:,.2f} GB")


def _fetch(hub: Any, name: str, commit: str, file: Remote, path: Path, progress: _Progress) -> None:
    """One file: what is missing of its part, then its hash, then its name. A part too long or wrong is thrown away."""
    part = _part(path)
    begun = _size(part)
    if begun > file.size:
        part.unlink()
        begun = 0
    progress.add(begun, fetched=False)
    url = hub.hf_hub_url(name, file.name, revision=commit)
    metadata = hub.get_hf_file_metadata(url)
    with open(part, "ab") as out:
        hub.file_download.http_get(
            metadata.location,
            out,
            resume_size=begun,
            headers=_headers(hub, url, metadata.location),
            expected_size=file.size,
            displayed_filename=file.name,
            tqdm_class=progress.tqdm(),
        )
        out.flush()
        os.fsync(out.fileno())
    if not _is_whole(part, file):
        part.unlink()
        raise ValueError(f"{name}: {file.name} arrived with a wrong hash and was thrown away; pull again")
    os.replace(part, path)


def _headers(hub: Any, url: str, location: str) -> dict[str, str]:
    """The Hub's own headers; without the token where the file lies at another host."""
    from urllib.parse import urlsplit

    headers = hub.utils.build_hf_headers(library_name="castor")
    if urlsplit(url).netloc != urlsplit(location).netloc:
        headers.pop("authorization", None)
    return headers


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_whole(path: Path, file: Remote) -> bool:
    """Whether a file has the size and the hash that the Hub states."""
    if _size(path) != file.size:
        return False
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with open(path, "rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == file.key


def _link(at: Path, blob: Path) -> None:
    """The cache's way: a relative link to the content; a hard link or copy where the system has no links."""
    if at.is_symlink() or at.exists():
        at.unlink()
    try:
        at.symlink_to(Path("..", "..", "blobs", blob.name))
    except OSError:
        shutil.copyfile(blob, at)


class _Progress:
    """Bytes so far, with the rate and the time left on one line."""

    def __init__(self, title: str, total: int) -> None:
        self.line = LiveLine(title, total)
        self.here = self.fetched = 0
        self._start_s = time.monotonic()

    def add(self, count: int, *, fetched: bool = True) -> None:
        """`count` more bytes: fetched now, or here before."""
        self.here += 0 if fetched else count
        self.fetched += count if fetched else 0
        elapsed_s = max(time.monotonic() - self._start_s, 1e-3)
        done, total = (self.here + self.fetched) / 1e9, self.line.total / 1e9
        text = f"{done:,.2f} of {total:,.2f} GB, {self.fetched / elapsed_s / 1e6:,.1f} MB/s"
        self.line.update(self.here + self.fetched, text)

    def tqdm(self) -> Callable[..., Any]:
        """A class that `huggingface_hub` reports to as to tqdm."""
        progress = self

        class Bar:
            def __init__(self, *arguments: Any, **options: Any) -> None: ...

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *arguments: object) -> None: ...

            def update(self, count: int | float | None = 1) -> None:
                progress.add(int(count or 0))

            def close(self) -> None: ...

        return Bar


@contextmanager
def _plain_errors(name: str, revision: str) -> Generator[None]:
    """What can go wrong on the way, each as one line that says what to do."""
    import httpx2
    from huggingface_hub import constants, errors

    again = "what has arrived is kept; the same command goes on"
    try:
        yield
    except errors.GatedRepoError:
        page = f"{constants.ENDPOINT}/{name}"
        raise ValueError(f"{name}: is gated; accept its terms at {page}, then set HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{name}: has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise ValueError(f"{name}: no such model at {constants.ENDPOINT}, or it is private (then: HF_TOKEN)") from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        if code == 404:
            hint = "is HF_ENDPOINT a mirror of the Hub?"
            raise ValueError(f"{name}: {constants.ENDPOINT} answers 404, as the Hub would not; {hint}") from None
        if code in (401, 403):
            raise ValueError(f"{name}: {constants.ENDPOINT} refuses access ({code}); is HF_TOKEN valid?") from None
        raise ValueError(f"{name}: {constants.ENDPOINT} answers {code}; {again}") from None
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        raise ValueError(f"{name}: HF_ENDPOINT={constants.ENDPOINT!r} is no web address (https://...)") from None
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError):
        if find_pulled(name, revision) is not None:
            again = f"what was pulled before can be used: --model {name}"
        raise ValueError(f"{name}: no connection to {constants.ENDPOINT}; {again}") from None
    except httpx2.HTTPError as error:
        raise ValueError(f"{name}: the transfer broke off ({type(error).__name__}); {again}") from None
    except errors.OfflineModeIsEnabled:
        raise ValueError(f"{name}: offline (HF_HUB_OFFLINE), and not among the pulled models") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ValueError(f"{name}: the disk is full; {again}") from None
        if "Consistency check failed" in str(error):
            raise ValueError(f"{name}: the transfer broke off (a file is shorter than stated); {again}") from None
        raise
