"""Uploaded files: on disk in one folder, each with what is known of it, within a quota and until they expire."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from castor.checkpoint import load_json, save_json
from castor.server.config import ServerConfig
from castor.server.errors import ApiError

ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
MAX_UPLOADS = 64  # unfinished ones at a time


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """What is known of a file; its content lies beside, under its id."""

    id: str
    owner: str
    display_name: str
    mime_type: str
    size_bytes: int
    sha256: str
    created_s: float
    expires_s: float

    def to_json(self, base_url: str) -> dict[str, Any]:
        """The Gemini API's File."""
        digest = base64.b64encode(bytes.fromhex(self.sha256)).decode()
        return {
            "name": f"files/{self.id}",
            "displayName": self.display_name,
            "mimeType": self.mime_type,
            "sizeBytes": str(self.size_bytes),
            "createTime": _time(self.created_s),
            "updateTime": _time(self.created_s),
            "expirationTime": _time(self.expires_s),
            "sha256Hash": digest,
            "uri": f"{base_url}/v1beta/files/{self.id}",
            "state": "ACTIVE",
            "source": "UPLOADED",
        }


@dataclass(kw_only=True)
class Upload:
    """An unfinished upload; whoever knows its secret may go on with it."""

    id: str
    owner: str
    display_name: str
    mime_type: str
    reserved_bytes: int  # as stated, or as many as have come
    path: Path
    started_s: float
    num_bytes: int = 0
    is_busy: bool = False
    to_store: ToStore | None = None  # what becomes of it in place of a file
    hash: Any = field(default_factory=hashlib.sha256)


ToStore = Callable[[Upload], Awaitable[dict[str, Any]]]  # gives the answer to the last piece


class FileStore:
    """The files of one server. Every method may be called from any thread."""

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.time) -> None:
        """Takes up what an earlier server left in the folder, but for unfinished uploads."""
        self._config, self._clock, self._lock = config, clock, threading.Lock()
        self._temporary = None if config.files_folder else tempfile.TemporaryDirectory(prefix="castor-files-")
        self.folder = Path(self._temporary.name if self._temporary else config.files_folder)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files: dict[str, StoredFile] = {}
        self._uploads: dict[str, Upload] = {}
        for path in sorted(self.folder.glob("*.part")):
            path.unlink()
        for path in sorted(self.folder.glob("*.json")):
            if (stored := _stored(path)) is not None:
                self._files[stored.id] = stored
        self._purge()

    def close(self) -> None:
        """Remove the folder, if it was made for this server alone."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def begin(self, owner: str, *, name: str, display_name: str, mime_type: str, size_bytes: int) -> str:
        """Begin an upload; the secret to go on with. A name is "files/ID" or "", a size of 0 is not known yet."""
        wanted = name.removeprefix("files/") or secrets.token_hex(10)
        if not ID.fullmatch(wanted):
            raise ApiError(400, "file.name is files/ and up to 40 of a-z, 0-9 and dashes", field="file.name")
        if size_bytes > self._config.file_bytes:
            raise ApiError(413, f"a file of {size_bytes} bytes; up to {self._config.file_bytes} are taken")
        with self._lock:
            self._purge()
            if wanted in self._files or any(upload.id == wanted for upload in self._uploads.values()):
                raise ApiError(409, f"files/{wanted} exists already", field="file.name")
            if len(self._uploads) >= MAX_UPLOADS:
                raise ApiError(429, f"{MAX_UPLOADS} uploads are under way", retry_after_s=10)
            self._check_room(size_bytes)
            secret = secrets.token_urlsafe(32)
            self._uploads[secret] = Upload(
                id=wanted,
                owner=owner,
                display_name=display_name,
                mime_type=mime_type,
                reserved_bytes=size_bytes,
                path=self.folder / f"{wanted}.part",
                started_s=self._clock(),
            )
            self._uploads[secret].path.touch(mode=0o600)
        return secret

    def upload(self, secret: str) -> Upload:
        """The upload with that secret; ApiError 404 where there is none."""
        with self._lock:
            self._purge()
            if secret not in self._uploads:
                raise ApiError(404, "there is no such upload; it may have ended or expired")
            return self._uploads[secret]

    def append(self, upload: Upload, piece: bytes) -> None:
        """Add to the end; ApiError where file or folder would become too large."""
        size_bytes = upload.num_bytes + len(piece)
        if size_bytes > self._config.file_bytes:
            raise ApiError(413, f"more than the {self._config.file_bytes} bytes that a file may have")
        with self._lock:
            if size_bytes > upload.reserved_bytes:
                self._check_room(size_bytes - upload.reserved_bytes)
                upload.reserved_bytes = size_bytes
        with upload.path.open("ab") as file:
            file.write(piece)
        upload.hash.update(piece)
        upload.num_bytes = size_bytes

    def cancel(self, secret: str) -> None:
        """Forget an upload."""
        with self._lock:
            if (upload := self._uploads.pop(secret, None)) is not None:
                upload.path.unlink(missing_ok=True)

    def take(self, secret: str) -> Upload:
        """An upload that is complete and becomes something else: its file is the caller's."""
        with self._lock:
            return self._uploads.pop(secret)

    def finish(self, secret: str) -> StoredFile:
        """An upload that is complete becomes a file."""
        with self._lock:
            upload = self._uploads.pop(secret)
            now_s = self._clock()
            stored = StoredFile(
                id=upload.id,
                owner=upload.owner,
                display_name=upload.display_name,
                mime_type=upload.mime_type,
                size_bytes=upload.num_bytes,
                sha256=upload.hash.hexdigest(),
                created_s=now_s,
                expires_s=now_s + 3600 * self._config.files_hours,
            )
            upload.path.replace(self.folder / stored.id)
            save_json(self.folder / f"{stored.id}.json", asdict(stored))
            self._files[stored.id] = stored
        return stored

    def get(self, name: str, owner: str) -> StoredFile:
        """The file whose name or address ends in files/ID; ApiError 404 where this owner has none of that name."""
        file_id = name.rpartition("files/")[2]
        with self._lock:
            self._purge()
            stored = self._files.get(file_id)
        if stored is None or stored.owner != owner:
            raise ApiError(404, f"files/{file_id[:60]}: there is no such file; it may have expired")
        return stored

    def all(self, owner: str) -> list[StoredFile]:
        """The files of an owner, the newest first."""
        with self._lock:
            self._purge()
            return sorted((f for f in self._files.values() if f.owner == owner), key=lambda f: -f.created_s)

    def delete(self, name: str, owner: str) -> None:
        """Remove a file; ApiError 404 as in `get`."""
        stored = self.get(name, owner)
        with self._lock:
            self._remove(stored)

    def _check_room(self, more_bytes: int) -> None:
        used = sum(f.size_bytes for f in self._files.values()) + sum(u.reserved_bytes for u in self._uploads.values())
        if used + more_bytes > self._config.files_bytes:
            raise ApiError(429, f"the files here may have {self._config.files_bytes} bytes together; delete some first")

    def _purge(self) -> None:
        now_s = self._clock()
        for stored in [f for f in self._files.values() if f.expires_s <= now_s]:
            self._remove(stored)
        old_s = now_s - 3600 * self._config.upload_hours
        for secret in [s for s, u in self._uploads.items() if u.started_s <= old_s and not u.is_busy]:
            self._uploads.pop(secret).path.unlink(missing_ok=True)

    def _remove(self, stored: StoredFile) -> None:
        self._files.pop(stored.id, None)
        for path in (self.folder / f"{stored.id}.json", self.folder / stored.id):
            path.unlink(missing_ok=True)


def _stored(path: Path) -> StoredFile | None:
    """What a record says, if its file is there and whole."""
    try:
        values = load_json(path)
        stored = StoredFile(**values) if isinstance(values, dict) else None
    except (ValueError, TypeError):
        return None
    if stored is None or set(asdict(stored)) != {f.name for f in fields(StoredFile)} or stored.id != path.stem:
        return None
    content = path.with_suffix("")
    return stored if content.is_file() and content.stat().st_size == stored.size_bytes else None


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
