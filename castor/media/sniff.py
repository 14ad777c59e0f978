"""What a file is, told from its first bytes and never from its name.

Only kinds that `castor.media` can decode (and a few it can name in a refusal) are known here.
"""

from castor.media.limits import MediaError

ALIASES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/apng": "image/png",
    "image/x-png": "image/png",
    "image/x-ms-bmp": "image/bmp",
    "image/x-bmp": "image/bmp",
    "image/tif": "image/tiff",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "audio/mpga": "audio/mpeg",
    "audio/x-mp3": "audio/mpeg",
    "audio/x-flac": "audio/flac",
    "audio/vorbis": "audio/ogg",
    "audio/opus": "audio/ogg",
    "application/ogg": "audio/ogg",
    "audio/m4a": "audio/mp4",
    "audio/x-m4a": "audio/mp4",
    "audio/x-aac": "audio/aac",
    "audio/aacp": "audio/aac",
    "audio/x-aiff": "audio/aiff",
    "video/mov": "video/quicktime",
    "video/x-m4v": "video/mp4",
    "video/m4v": "video/mp4",
    "video/avi": "video/x-msvideo",
    "video/mkv": "video/x-matroska",
    "video/matroska": "video/x-matroska",
    "video/wmv": "video/x-ms-wmv",
    "video/flv": "video/x-flv",
    "video/mpg": "video/mpeg",
    "application/x-pdf": "application/pdf",
}

IMAGES = {f"image/{kind}" for kind in ("png", "jpeg", "webp", "gif", "bmp", "tiff", "avif", "jp2")}
AUDIO_OF = {  # what a file is called when its sound is asked for
    **{f"audio/{kind}": f"audio/{kind}" for kind in ("wav", "mpeg", "flac", "ogg", "mp4", "aac", "aiff")},
    "video/mp4": "audio/mp4",
    "video/quicktime": "audio/mp4",
    "video/3gpp": "audio/mp4",
    "video/webm": "audio/webm",
    "video/x-matroska": "audio/x-matroska",
    "video/ogg": "audio/ogg",
}
VIDEO_OF = {
    **{f"video/{kind}": f"video/{kind}" for kind in ("mp4", "quicktime", "3gpp", "webm", "x-matroska")},
    **{f"video/{kind}": f"video/{kind}" for kind in ("x-msvideo", "x-flv", "x-ms-wmv", "ogg", "mpeg", "mp2t")},
    "image/gif": "video/gif",
}
KINDS: dict[str, dict[str, str]] = {
    "image": {kind: kind for kind in IMAGES},
    "audio": AUDIO_OF,
    "video": VIDEO_OF,
    "document": {"application/pdf": "application/pdf"},
}
SAME_CONTAINER = (  # labels that tools exchange freely for one file layout
    {"video/mp4", "video/quicktime", "video/3gpp"},
    {"video/webm", "video/x-matroska"},
    {"audio/webm", "audio/x-matroska"},
)
ISO_BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heif",
    b"heix": "image/heif",
    b"heim": "image/heif",
    b"mif1": "image/heif",
    b"msf1": "image/heif",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
MAGIC = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"II+\x00", "image/tiff"),
    (0, b"MM\x00+", "image/tiff"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "image/jp2"),
    (0, b"\xff\x4f\xff\x51", "image/jp2"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"FLV\x01", "video/x-flv"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video/x-ms-wmv"),
    (0, b"\x00\x00\x01\xba", "video/mpeg"),
    (0, b"\x00\x00\x01\xb3", "video/mpeg"),
    (4, b"moov", "video/quicktime"),
    (4, b"mdat", "video/quicktime"),
    (4, b"wide", "video/quicktime"),
)


def sniff(data: bytes) -> str | None:
    """The MIME type that the first bytes of `data` show, or None when they show none that is known."""
    for offset, magic, mime_type in MAGIC:
        if data.startswith(magic, offset):
            return mime_type
    head = data[:4]
    if head in (b"RIFF", b"RF64"):
        return {b"WAVE": "audio/wav", b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}.get(data[8:12])
    if head == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return "audio/aiff"
    if data[4:8] == b"ftyp":
        return _iso_kind(data)
    if head == b"\x1a\x45\xdf\xa3":
        return "video/webm" if b"webm" in data[:64] else "video/x-matroska"
    if head == b"OggS":
        return "video/ogg" if b"\x80theora" in data[:512] else "audio/ogg"
    if data.startswith(b"BM") and data[6:10] == b"\0\0\0\0":
        return "image/bmp"
    if len(data) >= 4 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return _mpeg_audio_kind(head)
    if b"%PDF-" in data[:1024]:
        return "application/pdf"
    if data[:1] == b"G" and data[188:189] == b"G" and data[376:377] in (b"G", b""):
        return "video/mp2t"
    return None


def _iso_kind(data: bytes) -> str:
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]
    if brands[0] in ISO_BRANDS and brands[0] not in (b"mif1", b"msf1"):
        return ISO_BRANDS[brands[0]]
    if brands[0] in (b"mif1", b"msf1"):
        return "image/avif" if {b"avif", b"avis"} & set(brands) else "image/heif"
    return "video/3gpp" if brands[0].startswith((b"3gp", b"3g2")) else "video/mp4"


def _mpeg_audio_kind(head: bytes) -> str | None:
    if head[1] & 0xF6 == 0xF0:
        return "audio/aac"
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    is_frame = version != 1 and layer in (1, 2) and head[2] >> 4 not in (0, 15) and head[2] >> 2 & 3 != 3
    return "audio/mpeg" if is_frame else None


def canonical(mime_type: str) -> str:
    """The one spelling of a MIME type used here: lower case, no parameters, aliases resolved."""
    base = mime_type.split(";", 1)[0].strip().lower()
    return ALIASES.get(base, base)


def check_kind(data: bytes, kind: str, declared: str | None, name: str) -> str:
    """The MIME type of `data` used as `kind` ("image", "audio", "video", "document").

    Raises MediaError when the content is empty, unknown, of another kind, or not what `declared` says.
    """
    if not data:
        raise MediaError(f"{name}: the file is empty")
    found = sniff(data)
    if found is None:
        raise MediaError(f"{name}: not a known kind of file (it begins with {data[:8]!r})")
    used_as = KINDS[kind].get(found)
    if used_as is None:
        raise MediaError(f"{name}: the content is {found}, which is not a supported kind of {kind}")
    if declared is not None:
        wanted = canonical(declared)
        is_same_container = any({wanted, used_as} <= group for group in SAME_CONTAINER)
        if wanted not in (found, used_as) and not is_same_container:
            raise MediaError(f"{name}: declared as {declared!r} but the content is {found}")
    return used_as
