"""Real decoding of good, hostile and broken files, most of them made here on the fly."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps, features

from castor.content import Audio, Document, Image, Video
from castor.media.audio import decode_audio, encode_wav
from castor.media.document import decode_document
from castor.media.image import decode_image, encode_png
from castor.media.limits import Limits, MediaError
from castor.media.sniff import sniff
from castor.media.video import decode_video, encode_mp4

DATA = Path(os.environ.get("CASTOR_DATA", "/nonexistent")) / "codec"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="CASTOR_DATA names no folder with codec/")


def noise(height_px: int, width_px: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def smooth(height_px: int, width_px: int, level: float = 1.0) -> np.ndarray:
    y, x = np.mgrid[0:height_px, 0:width_px]
    ramp = np.stack([x * 255 / width_px, y * 255 / height_px, (x + y) * 127 / width_px], axis=-1)
    return np.clip(ramp * level, 0, 255).astype(np.uint8)


def picture_file(pixels: np.ndarray | Pillow.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Pillow.Image) else Pillow.fromarray(pixels)
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def tone(rate_hz: int, seconds: float, pitch_hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch_hz * np.arange(int(rate_hz * seconds)) / rate_hz)).astype(np.float32)


def sound_file(samples: np.ndarray, rate_hz: int, kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


def film(
    frames: list[np.ndarray],
    container: str,
    codec: str,
    fps: int = 8,
    turn: int = 0,
    options: dict | None = None,
) -> bytes:
    """A silent video written by libav, for the kinds that the project itself never writes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = options or {}
        if turn:
            stream.set_display_rotation(turn)
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def grey_steps(num_frames: int, size_px: int = 32) -> list[np.ndarray]:
    """Frames whose brightness tells which one they are."""
    return [np.full((size_px, size_px, 3), 20 + 10 * index, np.uint8) for index in range(num_frames)]


def which(frames_FHWC: np.ndarray) -> list[int]:
    return [round((float(frame.mean()) - 20) / 10) for frame in frames_FHWC]


def pdf_file(num_pages: int = 1, width_pt: float = 100, height_pt: float = 50) -> bytes:
    kids = " ".join(f"{3 + index} 0 R" for index in range(num_pages))
    bodies = ["<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Kids[{kids}]/Count {num_pages}>>"]
    bodies += [f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 {width_pt} {height_pt}]>>"] * num_pages
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj{body}endobj\n".encode()
    table, size = "".join(f"{offset:010d} 00000 n \n" for offset in offsets), len(bodies) + 1
    tail = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer<</Root 1 0 R/Size {size}>>"
    return out + f"{tail}\nstartxref\n{len(out)}\n%%EOF".encode()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width_px: int, height_px: int, body: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


# --- pictures


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_png_is_lossless(height_px: int, width_px: int, seed: int) -> None:
    pixels = noise(height_px, width_px, seed)
    assert np.array_equal(decode_image(encode_png(pixels)), pixels)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_lossless_kinds_give_the_same_pixels(kind: str) -> None:
    pixels = noise(13, 17)
    extra = {"lossless": True} if kind == "WEBP" else {}
    part = Image(picture_file(pixels, kind, **extra))
    assert part.mime_type == f"image/{kind.lower()}"
    assert np.array_equal(part.pixels(), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "WEBP"])
def test_lossy_kinds_give_close_pixels(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    part = Image(picture_file(smooth(64, 48), kind, quality=95))
    assert part.mime_type == f"image/{kind.lower()}"
    assert np.abs(part.pixels().astype(int) - smooth(64, 48)).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = picture_file(smooth(20, 30), kind, exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))).convert("RGB"))
    assert np.array_equal(decode_image(data), wanted)


def test_damaged_exif_does_not_spoil_a_picture() -> None:
    data = picture_file(smooth(8, 8), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff junk")
    assert decode_image(data).shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_shown_over_white(mode: str) -> None:
    picture = Pillow.new("RGBA", (4, 2), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 2, 2))
    kind = "TIFF" if mode == "PA" else "PNG"
    pixels = decode_image(picture_file(picture if mode == "PA" else picture.convert(mode), kind))
    assert pixels[:, :2].max() == 0 and pixels[:, 2:].min() == 255


def test_half_transparent_black_over_white_is_grey() -> None:
    assert decode_image(picture_file(Pillow.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG"))[0, 0, 0] == 127


def test_sixteen_bit_grey_keeps_its_range() -> None:
    levels = np.array([[0, 256, 32768, 65535]], np.uint16)
    assert decode_image(picture_file(Pillow.fromarray(levels), "PNG"))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_colour_modes(mode: str) -> None:
    picture = Pillow.fromarray(smooth(16, 16)).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    wanted = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(decode_image(picture_file(picture, kind)) - wanted).max() <= 2


def test_an_animation_as_image_is_its_first_frame() -> None:
    frames = [Pillow.fromarray(frame) for frame in grey_steps(3)]
    data = picture_file(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    assert decode_image(data).mean() == 20


def test_size_limits_are_checked_before_decoding() -> None:
    for data in (png_claiming(60000, 60000), picture_file(noise(40, 40), "JPEG")):
        with pytest.raises(MediaError, match=r"cat: .*max_pixels=1000\)"):
            decode_image(data, "cat", Limits(max_pixels=1000))


def test_a_webp_canvas_is_checked_before_it_is_allocated() -> None:
    body = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + b"\xff\x3f\0" * 2
    with pytest.raises(MediaError, match="16384 x 16384"):
        decode_image(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body)


def test_a_decompression_bomb_is_refused_without_the_memory() -> None:
    squeezed = zlib.compress(bytes(30_000_000), 9)
    with pytest.raises(MediaError, match="max_pixels"):
        decode_image(png_claiming(200_000, 200_000, squeezed))


def test_a_header_that_promises_more_than_there_is() -> None:
    with pytest.raises(MediaError, match="tall"):
        decode_image(png_claiming(64, 64, zlib.compress(bytes(193 * 3))), "tall")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_cut_short_pictures_are_refused(kind: str, share: float) -> None:
    data = picture_file(noise(64, 64), kind)
    with pytest.raises(MediaError, match="half"):
        decode_image(data[: int(len(data) * share)], "half")


# --- sound


@given(st.lists(st.floats(-1, 1, width=32, allow_subnormal=False), min_size=1, max_size=300))
@settings(max_examples=50, deadline=None)
def test_wav_keeps_every_sample_within_a_step(values: list[float]) -> None:
    samples = np.array(values, np.float32)
    assert np.abs(decode_audio(encode_wav(samples)) - samples).max() <= 1 / 32768


SOUNDS = [
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("WAV", "ULAW"),
    ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "subtype"), SOUNDS)
@pytest.mark.parametrize("rate_hz", [16000, 48000])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_sound_files_agree_with_soundfile(kind: str, subtype: str, rate_hz: int, num_channels: int) -> None:
    samples = np.stack([tone(rate_hz, 0.5, 300.0 + 200 * channel) for channel in range(num_channels)], axis=1)
    data = sound_file(samples, rate_hz, kind, subtype)
    wanted, read_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    wanted = soxr.resample(wanted.mean(axis=1), read_hz, 16000) if read_hz != 16000 else wanted.mean(axis=1)
    got = Audio(data).samples()
    assert got.dtype == np.float32 and len(got) == len(wanted)
    assert np.abs(got - wanted).max() < 1e-4


@pytest.mark.parametrize("container", ["mp4", "matroska", "webm", "adts"])
def test_sound_in_libav_containers(container: str) -> None:
    codec = "libopus" if container == "webm" else "aac"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(48000, 1.0)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    part = Audio(buffer.getvalue())
    samples = part.samples()
    assert part.mime_type.startswith("audio/")
    assert abs(len(samples) - 16000) < 3000
    spectrum = np.abs(np.fft.rfft(samples[2000:14000]))
    assert abs(np.argmax(spectrum) * 16000 / 12000 - 440) < 3


def test_headerless_speech_as_the_gemini_api_sends_it() -> None:
    values = (tone(24000, 0.5) * 32767).astype("<i2")
    part = Audio(values.tobytes(), mime_type="audio/L16;codec=pcm;rate=24000")
    assert len(part.samples()) == 8000
    assert Audio(part.data, mime_type=part.mime_type) == part
    with pytest.raises(ValueError, match="rate"):
        Audio(values.tobytes(), mime_type="audio/L16")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF"])
def test_cut_short_sound_is_refused(kind: str) -> None:
    data = sound_file(tone(16000, 1.0), 16000, kind)
    with pytest.raises(MediaError, match="half"):
        decode_audio(data[: len(data) // 2], "half")


def test_a_streamed_wav_without_its_length_is_read_to_the_end() -> None:
    data = bytearray(encode_wav(tone(16000, 0.1)))
    data[40:44] = b"\xff\xff\xff\xff"
    assert len(decode_audio(bytes(data))) == 1600


def test_sound_limits() -> None:
    with pytest.raises(MediaError, match=r"max_seconds=0.5\)"):
        decode_audio(encode_wav(tone(16000, 1.0)), limits=Limits(max_seconds=0.5))
    mp3 = sound_file(tone(16000, 2.0), 16000, "MP3")
    with pytest.raises(MediaError, match=r"max_seconds=0.5\)"):
        decode_audio(mp3, limits=Limits(max_seconds=0.5))
    lying = bytearray(encode_wav(tone(16000, 0.1)))
    lying[24:28] = struct.pack("<I", 1)
    with pytest.raises(MediaError, match="1 Hz"):
        decode_audio(bytes(lying))


# --- video


@pytest.mark.parametrize(
    ("container", "codec", "mime_type"),
    [
        ("mp4", "libx264", "video/mp4"),
        ("mov", "libx264", "video/quicktime"),
        ("matroska", "libx264", "video/x-matroska"),
        ("webm", "libvpx-vp9", "video/webm"),
        ("avi", "mpeg4", "video/x-msvideo"),
        ("mpegts", "libx264", "video/mp2t"),
        ("flv", "libx264", "video/x-flv"),
    ],
)
def test_video_kinds_give_every_frame_at_its_time(container: str, codec: str, mime_type: str) -> None:
    part = Video(film(grey_steps(16), container, codec))
    clip = part.clip(num_frames=16)
    assert part.mime_type == mime_type
    assert which(clip.frames_FHWC) == list(range(16))
    assert np.allclose(clip.times_s, np.arange(16) / 8, atol=2e-3)
    assert abs(clip.duration_s - 2.0) < 0.01 and clip.samples_S is None


@pytest.mark.parametrize("sampling", [{"num_frames": 4}, {"num_frames": 1}, {"num_frames": 7}, {"num_frames": 99}])
def test_equally_spaced_frames(sampling: dict[str, int]) -> None:
    frames = np.stack(grey_steps(16))
    num_frames = min(sampling["num_frames"], 16)
    middles = np.floor((np.arange(num_frames) + 0.5) * 16 / num_frames + 1e-9).astype(int)
    for part in (Video.from_frames(frames, 8.0), Video(encode_mp4(frames, 8.0))):
        clip = part.clip(**sampling)
        assert which(clip.frames_FHWC) == middles.tolist()
        assert np.allclose(clip.times_s, middles / 8, atol=1e-3)


@pytest.mark.parametrize("fps", [0.1, 1, 2, 3, 8, 30])
def test_frames_by_rate(fps: float) -> None:
    frames = np.stack(grey_steps(16))
    ticks = np.arange(int(np.ceil(2 * fps - 1e-9))) / fps
    wanted = np.unique(np.floor(ticks * 8 + 1e-6).astype(int)).tolist()
    for part in (Video.from_frames(frames, 8.0), Video(encode_mp4(frames, 8.0))):
        assert which(part.clip(fps=fps).frames_FHWC) == wanted


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("mp4", "libx264", {"g": "6", "bf": "3"}),
        ("mov", "libx264", {"g": "6", "bf": "3", "x264-params": "open-gop=1"}),
        ("matroska", "libx264", {"g": "6", "bf": "2"}),
        ("webm", "libvpx-vp9", {"g": "6"}),
        ("mp4", "mpeg4", {"g": "4"}),
        ("mp4", "libx264", {"g": "1"}),
        ("mpegts", "libx264", {"g": "6"}),
    ],
)
def test_skipping_ahead_gives_the_frames_of_a_full_decode(container: str, codec: str, options: dict) -> None:
    data = film([smooth(32, 48, 0.4 + index / 200) for index in range(90)], container, codec, options=options)
    every = decode_video(data, num_frames=90)
    assert len(every.frames_FHWC) == 90
    for num_frames in (1, 2, 5, 9, 30):
        clip = decode_video(data, num_frames=num_frames)
        at = np.searchsorted(every.times_s, clip.times_s - 1e-4)
        assert len(clip.times_s) == num_frames
        assert np.array_equal(clip.frames_FHWC, every.frames_FHWC[at])
        assert np.allclose(clip.times_s, every.times_s[at])


def test_video_sound_track_and_close_pixels() -> None:
    frames = np.stack([smooth(48, 64, level) for level in np.linspace(0.3, 1, 12)])
    clip = decode_video(encode_mp4(frames, 6.0, tone(16000, 2.0)), num_frames=12)
    assert clip.frames_FHWC.shape == frames.shape
    assert np.abs(clip.frames_FHWC.astype(int) - frames).mean() < 4
    assert clip.samples_S is not None and abs(len(clip.samples_S) - 32000) <= 1024
    assert np.abs(clip.samples_S[4000:28000] - tone(16000, 2.0)[4000:28000]).max() < 0.05


@pytest.mark.parametrize("delay_s", [0.5, 0.0])
def test_a_sound_track_that_begins_late_is_padded_with_silence(delay_s: float) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        pictures = out.add_stream("mpeg4", rate=8)
        pictures.height = pictures.width = 32
        pictures.pix_fmt = "yuv420p"
        sound = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        for frame in grey_steps(8):
            out.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(pictures.encode(None))
        values = (tone(16000, 0.25)[None] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, int(16000 * delay_s), Fraction(1, 16000)
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    samples = decode_video(buffer.getvalue()).samples_S
    silence = int(16000 * delay_s)
    assert samples is not None and len(samples) == silence + 4000
    assert not samples[:silence].any() and np.abs(samples[silence:] - tone(16000, 0.25)).max() < 1e-3


def test_odd_sides_grow_by_a_repeated_line() -> None:
    frames = np.stack([smooth(33, 47)] * 4)
    shape = decode_video(encode_mp4(frames, 4.0)).frames_FHWC.shape
    assert shape == (4, 34, 48, 3)


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotation_in_the_metadata_is_applied(turn: int) -> None:
    frames = [smooth(32, 64)] * 3
    upright = decode_video(film(frames, "mp4", "libx264")).frames_FHWC[0]
    turned = decode_video(film(frames, "mp4", "libx264", turn=turn)).frames_FHWC[0]
    assert np.array_equal(turned, np.rot90(upright, turn // 90))


def test_large_frames_are_scaled_down() -> None:
    data = film([smooth(120, 240)] * 3, "mp4", "libx264")
    clip = decode_video(data, limits=Limits(max_frame_px=60))
    assert clip.frames_FHWC.shape == (3, 30, 60, 3)
    assert np.abs(clip.frames_FHWC[0].astype(int) - smooth(30, 60)).mean() < 6


def test_animated_gif_as_video() -> None:
    frames = [Pillow.fromarray(frame) for frame in grey_steps(5)]
    durations = [100, 100, 200, 100, 500]
    data = picture_file(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=durations)
    part = Video(data)
    clip = part.clip()
    assert part.mime_type == "video/gif"
    assert which(clip.frames_FHWC) == [0, 1, 2, 3, 4]
    assert np.allclose(clip.times_s, [0, 0.1, 0.2, 0.4, 0.5]) and clip.duration_s == pytest.approx(1.0)
    assert which(part.clip(num_frames=2).frames_FHWC) == [2, 4]


def test_video_limits_name_themselves() -> None:
    data = encode_mp4(np.stack(grey_steps(16)), 8.0)
    for field, value in [
        ("max_seconds", 1.0), ("max_pixels", 1000), ("max_frames", 3), ("max_stored_frames", 15),
        ("max_total_pixels", 5000), ("max_bytes", 100),
    ]:  # fmt: skip
        with pytest.raises(MediaError, match=f"film: .*{field}="):
            decode_video(data, "film", Limits(**{field: value}))


def test_a_video_header_that_understates_its_frames() -> None:
    data = bytearray(film([smooth(256, 256)] * 2, "mp4", "libx264"))
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    assert data[at : at + 4] == struct.pack(">HH", 256, 256)
    data[at : at + 4] = struct.pack(">HH", 16, 16)
    with pytest.raises(MediaError, match="max_pixels=10000"):
        decode_video(bytes(data), limits=Limits(max_pixels=10_000))


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "avi"])
@pytest.mark.parametrize("share", [0.4, 0.8])
def test_cut_short_videos_are_refused(container: str, share: float) -> None:
    frames = [noise(32, 32, seed) for seed in range(8)]
    data = film(frames, container, "mpeg4" if container == "avi" else "libx264")
    with pytest.raises(MediaError, match="half"):
        decode_video(data[: int(len(data) * share)], "half")


def test_a_film_without_pictures_and_sound_without_sound() -> None:
    silent = encode_mp4(np.stack(grey_steps(2)), 8.0)
    with pytest.raises(MediaError, match="no sound track"):
        Audio(silent).samples()
    with pytest.raises(ValueError, match="not a supported kind of video"):
        Video(encode_wav(tone(16000, 0.1)))


def test_odd_requests_are_refused() -> None:
    part = Video.from_frames(np.stack(grey_steps(2)), 8.0)
    for wrong in ({"num_frames": 0}, {"num_frames": 1.5}, {"fps": 0}, {"fps": float("nan")}):
        with pytest.raises(ValueError, match="must be"):
            part.clip(**wrong)
    with pytest.raises(ValueError, match="max_pixels"):
        Limits(max_pixels=0)


# --- documents


def test_pages_are_drawn_at_the_wanted_size() -> None:
    pages = Document(pdf_file(3)).pages(dpi=72)
    assert [page.shape for page in pages] == [(50, 100, 3)] * 3
    assert pages[0].min() == 255
    assert decode_document(pdf_file(), dpi=144)[0].shape == (100, 200, 3)


def test_document_limits() -> None:
    with pytest.raises(MediaError, match="max_pages=2"):
        decode_document(pdf_file(3), limits=Limits(max_pages=2))
    with pytest.raises(MediaError, match="max_pixels=1000"):
        decode_document(pdf_file(), limits=Limits(max_pixels=1000))
    with pytest.raises(MediaError, match="max_total_pixels"):
        decode_document(pdf_file(9), limits=Limits(max_total_pixels=50_000))
    with pytest.raises(MediaError):
        decode_document(pdf_file()[:40])
    with pytest.raises(ValueError, match="dpi"):
        decode_document(pdf_file(), dpi=0)


# --- every kind


def good_files() -> dict[str, bytes]:
    frames = np.stack(grey_steps(6))
    files = {kind: picture_file(smooth(24, 32), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}
    files["CCITT"] = picture_file(Pillow.fromarray(smooth(24, 32)).convert("1"), "TIFF", compression="group4")
    files |= {kind: sound_file(tone(16000, 0.3), 16000, kind) for kind in ("WAV", "FLAC", "OGG", "MP3")}
    files |= {"MP4": encode_mp4(frames, 8.0, tone(16000, 0.75)), "PDF": pdf_file()}
    files |= {"MKV": film(list(frames), "matroska", "libx264"), "WEBM": film(list(frames), "webm", "libvpx")}
    return files


def decode_as(kind: str, data: bytes, limits: Limits) -> None:
    if kind in ("WAV", "FLAC", "OGG", "MP3"):
        Audio(data, limits=limits).samples()
    elif kind in ("MP4", "MKV", "WEBM"):
        Video(data, limits=limits).clip(num_frames=4)
    elif kind == "PDF":
        Document(data, limits=limits).pages(dpi=36)
    else:
        Image(data, limits=limits).pixels()


@pytest.mark.parametrize("kind", sorted(good_files()))
def test_damaged_bytes_give_pixels_or_a_value_error(kind: str) -> None:
    data, rng = good_files()[kind], np.random.default_rng(7)
    limits = Limits(max_pixels=1_000_000, max_seconds=60, max_total_pixels=4_000_000)
    decode_as(kind, data, limits)
    for _ in range(25):
        broken = bytearray(data)
        for at in rng.integers(0, len(data) if rng.random() < 0.5 else min(len(data), 200), rng.integers(1, 6)):
            broken[at] = rng.integers(0, 256)
        try:
            decode_as(kind, bytes(broken[: rng.integers(1, len(data))] if rng.random() < 0.3 else broken), limits)
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize("part", [Image, Audio, Video, Document])
def test_sources_that_cannot_be(part: type, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "junk.png").write_bytes(b"just some words")
    (tmp_path / "big.bin").write_bytes(bytes(2000))
    for source, problem in [
        (tmp_path / "missing.png", "missing.png: no such file"),
        (tmp_path, "a directory"),
        (tmp_path / "empty", "empty: the file is empty"),
        (tmp_path / "junk.png", "junk.png: not a known kind"),
        (b"", "empty"),
        ("https://example.org/a.png", "not fetched"),
        ("gs://bucket/a.png", "not fetched"),
        ("data:image/png;base64", "comma"),
        ("data:image/png;base64,@@@@", "base64"),
        ("bad\0name", "cannot be read"),
        ("/dev/zero", "not a regular file"),
        (17, "give a path"),
    ]:
        with pytest.raises(ValueError, match=problem):
            part(source)
    with pytest.raises(ValueError, match=r"big.bin: .*max_bytes=1000\)"):
        part(tmp_path / "big.bin", limits=Limits(max_bytes=1000))


def test_lying_kinds_are_refused() -> None:
    files = good_files()
    with pytest.raises(ValueError, match="declared as 'image/png' but the content is image/jpeg"):
        Image(files["JPEG"], mime_type="image/png")
    with pytest.raises(ValueError, match="the content is audio/wav"):
        Image(files["WAV"])
    with pytest.raises(ValueError, match="declared as 'audio/wav'"):
        Audio("data:audio/wav;base64," + "SUQz" * 20)
    assert Image(files["JPEG"], mime_type="image/JPG").mime_type == "image/jpeg"
    assert Audio(files["MP4"]).mime_type == "audio/mp4"


@given(st.binary(max_size=64))
@settings(max_examples=200, deadline=None)
def test_sniffing_any_bytes_is_safe(data: bytes) -> None:
    assert sniff(data) is None or "/" in sniff(data)


def test_decoding_broken_files_prints_nothing(tmp_path: Path) -> None:
    for kind, data in good_files().items():
        (tmp_path / kind).write_bytes(data[: len(data) * 3 // 4])
    script = (
        "import pathlib, sys\n"
        "from castor.content import Audio, Document, Image, Video\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    for part, read in ((Image, 'pixels'), (Audio, 'samples'), (Video, 'clip'), (Document, 'pages')):"
        "\n"
        "        try:\n"
        "            getattr(part(path), read)()\n"
        "        except ValueError:\n"
        "            pass\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


# --- files from the world


def manifest() -> list[dict]:
    path = DATA / "manifest.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


REFUSED_FOR_A_REASON = (
    "hopper.ico",
    "rgb32bf.bmp",
    "00r1_graya_la.jp2",
)  # no icons; Pillow cannot read the others


@needs_data
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("row", manifest(), ids=lambda row: row["path"])
def test_files_from_the_world(row: dict) -> None:
    path = DATA / row["path"]
    try:
        if row["kind"] == "image":
            pixels = Image(path).pixels()
            upright = ImageOps.exif_transpose(Pillow.open(path))
            assert pixels.shape == (upright.height, upright.width, 3)
            if upright.mode in ("RGB", "L", "CMYK"):
                assert np.array_equal(pixels, np.asarray(upright.convert("RGB"))) or upright.has_transparency_data
        elif row["kind"] == "audio":
            samples = Audio(path).samples()
            wanted, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
            wanted = wanted.mean(axis=1) if rate_hz == 16000 else soxr.resample(wanted.mean(axis=1), rate_hz, 16000)
            assert len(samples) == len(wanted) and np.abs(samples - wanted).max() < 1e-4
        elif row["kind"] == "video":
            clip = Video(path).clip()
            assert len(clip.frames_FHWC) == min(16, row["video_frames"]) or row["expect"] != "ok"
            assert (np.diff(clip.times_s) > 0).all() and 0 <= clip.times_s[0] <= clip.times_s[-1] <= clip.duration_s
        else:
            num_pages = len(Document(path).pages(dpi=36))
            assert num_pages == row.get("pages", num_pages)
    except ValueError as error:
        assert path.name in str(error)
        assert row["expect"] != "ok" or path.name in REFUSED_FOR_A_REASON, error
