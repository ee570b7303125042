"""Videos, animations and folders for the tests, made and read by PyAV and Pillow alone."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from PIL import Image

from csd_core.errors import UserError
from csd_core.io.images import Picture, write_picture
from csd_core.io.video_colours import EXACT
from csd_core.io.video_writer import VideoWriter, check_can_write
from csd_core.io.videos import Video, read_video

NTSC = Fraction(30000, 1001)
MILLI = Fraction(1, 1000)
UNEVEN = [Fraction(k, 1000) for k in (0, 40, 80, 200, 210, 333, 500, 540)]


def pictures(count: int = 12, height: int = 32, width: int = 48) -> list[np.ndarray]:
    """Smooth frames, each brighter than the one before, uint8 (height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 100 / width, y * 100 / height, 40 + 0 * x], axis=2)
    return [(base + k * 120 / max(count, 12)).astype(np.uint8) for k in range(count)]


def levels(count: int = 12) -> list[np.ndarray]:
    """A white bar that moves over black."""
    masks = [np.zeros((32, 48, 3), np.uint8) for _ in range(count)]
    for k, mask in enumerate(masks):
        mask[:, 2 * k : 2 * k + 16] = 255
    return masks


def clip(
    path: Path,
    frames: Sequence[np.ndarray] | None = None,
    *,
    rate: Fraction | None = NTSC,
    times: list[Fraction] | None = None,
    end: Fraction | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    sound: Sequence[str] = (),
    sound_from: float = 0.0,
    space: int = 6,
    full: bool = False,
    tag: bool = True,
    rotation: int | None = None,
    mirror: bool = False,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    language: str = "und",
    container_options: dict[str, str] | None = None,
) -> Path:
    """A video written by PyAV alone: by default lossy but fine, 12 frames of 48 x 32."""
    frames = pictures() if frames is None else frames
    unit = 1 / rate if rate else MILLI
    times = times or [k * unit for k in range(len(frames))]
    ends = [*times[1:], end or times[-1] + (1 / rate if rate else times[-1] - times[-2])]
    with av.open(path, "w", options=container_options) as container:
        container.metadata.update(metadata or {})
        stream: Any = container.add_stream(codec, rate=rate or 24, options=options or fine(codec))
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        context = stream.codec_context
        context.time_base, context.framerate = unit, rate or Fraction(0)
        context.max_b_frames = 0 if times[1:] and rate is None else context.max_b_frames
        context.sample_aspect_ratio = aspect or Fraction(1)
        if pixels in ("rgb24", "bgr0"):
            context.colorspace = 0
        elif tag:
            context.colorspace, context.color_range = space, 2 if full else 1
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=mirror)
        voices: list[Any] = [container.add_stream(name, rate=48000) for name in sound]
        for voice in voices:
            voice.metadata["language"] = language
        lengths = {round(a / unit): round((b - a) / unit) for a, b in zip(times, ends, strict=True)}
        for pixels_, time in zip([*frames], times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels_, "rgb24")
            if frame.format.name != pixels:
                frame = frame.reformat(
                    format=pixels,
                    dst_colorspace={1: 1, 6: 5}[space],
                    dst_color_range=2 if full else 1,
                    interpolation=EXACT,
                )
            frame.pts, frame.time_base = round(time / unit), unit
            container.mux([longer(packet, lengths) for packet in stream.encode(frame)])
        container.mux([longer(packet, lengths) for packet in stream.encode()])
        for k, voice in enumerate(voices):
            sing(container, voice, float(ends[-1]), 440 + 110 * k, sound_from)
    return path


def fine(codec: str) -> dict[str, str]:
    return {"libx264": {"crf": "4", "preset": "veryfast"}, "libvpx-vp9": {"crf": "4", "cpu-used": "8"}}.get(
        codec, {}
    )


def longer(packet: Any, lengths: dict[int, int]) -> Any:
    packet.duration = lengths[packet.pts]
    return packet


def sing(container: Any, stream: Any, seconds: float, hertz: float, start: float) -> None:
    """A tone, not repetitive, so that no two packets are the same."""
    t = np.arange(int(48000 * seconds)) / 48000
    wave = (np.sin(2 * np.pi * hertz * t * (1 + t)) * 9000).astype(np.int16)
    context = stream.codec_context
    resampler = av.AudioResampler(context.format, context.layout, 48000, frame_size=context.frame_size or 960)
    tone = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
    tone.sample_rate, tone.pts, tone.time_base = 48000, round(start * 48000), Fraction(1, 48000)
    for part in [*resampler.resample(tone), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode())


def save_animation(path: Path, frames: list[Image.Image], lengths: list[int]) -> Path:
    lossless: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=lengths, **lossless)
    return path


def folder(path: Path, frames: Iterable[np.ndarray], suffix: str = ".png") -> Path:
    path.mkdir()
    for k, frame in enumerate(frames):
        write_picture(path / f"f{k}{suffix}", Picture(frame))
    return path


def stamps(path: Path) -> list[Fraction]:
    """Times of all frames, by PyAV alone."""
    with av.open(path) as container:
        return [frame.pts * frame.time_base for frame in cast(Any, container.decode(video=0))]


def heard(path: Path, k: int = 0) -> list[tuple[Fraction, bytes]]:
    """Packets of sound and when they are heard."""
    with av.open(path) as container:
        packets = container.demux(container.streams.audio[k])
        return [(p.pts * p.time_base, bytes(p)) for p in packets if p.pts is not None and p.size]


def decoded(path: Path, **colours: Any) -> list[np.ndarray]:
    """Pixels by PyAV alone."""
    with av.open(path) as container:
        return [f.to_ndarray(format="rgb24", **colours) for f in container.decode(video=0)]


def copy(video: Video, output: Path, **settings: Any) -> list[str]:
    """Write the frames unchanged; returns the notes of check_can_write."""
    notes = check_can_write(output, video, **settings)
    with VideoWriter(output, video, **settings) as writer:
        for frame in video.frames():
            writer.write(frame)
    assert [file for file in output.parent.iterdir() if file.name.startswith(".")] == []
    return notes


def write(output: Path, video: Video, frames: Iterable[np.ndarray], then: Callable[[], Any] = str) -> None:
    """Write frames, and do something before the writer is done."""
    with VideoWriter(output, video) as writer:
        for frame in frames:
            writer.write(frame)
        then()


def apart(one: Any, other: Any) -> float:
    """Mean difference of levels."""
    return float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())


def one_line(function: Callable[..., Any], *args: Any, **settings: Any) -> str:
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as error:
        function(*args, **settings)
    assert ": expected " in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


refused = partial(one_line, read_video)
not_written = partial(one_line, check_can_write)
