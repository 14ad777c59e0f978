"""Files as pieces: nothing of a recording, a film or a document is lost or told twice."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from indexing import SAMPLES

import castor
from castor.index.reading import ReadingConfig, content_key, pieces_of, taken_s
from castor.media.audio import decode_audio, encode_wav
from castor.media.document import split_pages
from castor.media.limits import Limits, MediaError
from castor.media.segments import frame_at, video_segments
from castor.media.video import decode_video, encode_mp4


def test_a_long_recording_is_cut_into_equal_parts() -> None:
    data = encode_wav(np.sin(np.arange(70 * 16_000) / 50).astype(np.float32) * 0.5)
    made = list(pieces_of(data, "audio", "a.wav"))
    assert [str(piece.place) for piece in made] == ["00:00–00:23", "00:23–00:46", "00:46–01:10"]
    joined = np.concatenate([piece.parts[0].samples() for piece in made])
    assert np.array_equal(joined, decode_audio(data))
    short = encode_wav(np.ones(16_000, np.float32) * 0.1)
    assert len(list(pieces_of(short, "audio", "a.wav"))) == 1


@pytest.fixture(scope="module")
def film() -> bytes:
    """70 s at 4 frames a second; every second has its own grey, and a tone that rises."""
    seconds = np.repeat(np.arange(70), 4)
    frames = np.repeat((seconds * 3 + 20).astype(np.uint8), 48 * 64 * 3).reshape(-1, 48, 64, 3)
    return encode_mp4(frames, 4.0, (0.2 * np.sin(np.arange(70 * 16_000) ** 1.1 / 90)).astype(np.float32))


def test_a_long_film_is_cut_into_segments(film: bytes) -> None:
    made = list(pieces_of(film, "video", "a.mp4"))
    assert [str(piece.place) for piece in made] == ["00:00–00:23", "00:23–00:46", "00:46–01:10"]
    greys, sounds = [], []
    for segment in video_segments(film, "a.mp4", Limits(), 30.0, 1.0):
        greys += segment.frames_FHWC.mean(axis=(1, 2, 3)).tolist()
        assert segment.samples_S is not None
        sounds.append(segment.samples_S)
    told = [round((grey - 20) / 3) for grey in greys]
    assert sorted(set(told)) == list(range(70)) and told == sorted(told)
    whole = decode_video(film, num_frames=2).samples_S
    assert whole is not None and np.array_equal(np.concatenate(sounds), whole[: sum(map(len, sounds))])
    assert abs(sum(map(len, sounds)) - len(whole)) < 2048
    for piece, segment in zip(made, video_segments(film, "a.mp4", Limits(), 30.0, 1.0), strict=True):
        clip = piece.parts[0].clip(num_frames=99)
        assert np.array_equal(clip.frames_FHWC, segment.frames_FHWC)


def test_one_frame_and_the_last_segments(film: bytes) -> None:
    for time_s in (0.0, 31.5, 69.9, 99.0):
        grey = frame_at(film, "a.mp4", Limits(), time_s).mean()
        assert round((grey - 20) / 3) == min(int(time_s), 69)
    (last,) = video_segments(film, "a.mp4", Limits(), 30.0, 1.0, from_s=50.0)
    *_, wanted = video_segments(film, "a.mp4", Limits(), 30.0, 1.0)
    assert last.start_s == wanted.start_s and np.array_equal(last.frames_FHWC, wanted.frames_FHWC)


def test_a_short_film_is_given_whole() -> None:
    data = (SAMPLES / "clip.mp4").read_bytes()
    (piece,) = pieces_of(data, "video", "clip.mp4")
    assert piece.parts == (castor.Video(data),) and piece.place.end_s == 2.0


def test_a_film_without_pictures_is_heard() -> None:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        for _ in range(50):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 48_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (piece,) = pieces_of(buffer.getvalue(), "video", "said.webm")
    assert isinstance(piece.parts[0], castor.Audio)


def test_pages_are_those_of_the_document() -> None:
    from PIL import Image as Pictures

    buffer = io.BytesIO()
    pictures = [Pictures.new("RGB", (120 + at, 160), (40 * at, 100, 50)) for at in range(5)]
    pictures[0].save(buffer, "PDF", save_all=True, append_images=pictures[1:])
    data = buffer.getvalue()
    wanted = castor.Document(data).pages(dpi=72)
    made = list(pieces_of(data, "document", "a.pdf"))
    assert [str(piece.place) for piece in made] == [f"page {at}" for at in range(1, 6)]
    for piece, page in zip(made, wanted, strict=True):
        assert np.array_equal(piece.parts[0].pages(dpi=72)[0], page)
    (sample,) = pieces_of((SAMPLES / "page.pdf").read_bytes(), "document", "page.pdf")
    assert "table" in sample.text and castor.Text(sample.text) in sample.parts
    with pytest.raises(MediaError, match="5 pages, more than allowed"):
        list(split_pages(data, "a.pdf", Limits(max_pages=4)))
    with pytest.raises(MediaError, match="not a readable PDF"):
        list(pieces_of(data[:200], "document", "a.pdf"))


def test_what_is_too_long_or_not_text_is_said() -> None:
    with pytest.raises(MediaError, match="max_text_bytes=10"):
        list(pieces_of(b"x" * 11, "text", "a.txt", ReadingConfig(max_text_bytes=10)))
    with pytest.raises(MediaError, match="not UTF-8 text .* at byte 4"):
        list(pieces_of(b"good\xff", "text", "a.txt"))
    with pytest.raises(MediaError, match="the file is empty"):
        list(pieces_of(b" \n", "text", "a.txt"))


def test_when_a_picture_was_taken(tmp_path: Path) -> None:
    from PIL import Image as Pictures

    exif = Pictures.Exif()
    exif[0x8769] = {36867: "2021:07:08 09:10:11"}
    path = tmp_path / "a.jpg"
    Pictures.new("RGB", (8, 8)).save(path, exif=exif)
    assert taken_s(path.read_bytes(), "image", "a.jpg") == time.mktime((2021, 7, 8, 9, 10, 11, 0, 0, -1))
    assert taken_s((SAMPLES / "scene.png").read_bytes(), "image", "scene.png") is None
    assert taken_s(b"\x89PNG\r\n\x1a\nbroken", "image", "b.png") is None


def test_the_same_bytes_in_another_form_are_another_content() -> None:
    assert content_key("text", b"x = 1") != content_key("python", b"x = 1")
