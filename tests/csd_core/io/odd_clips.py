"""Videos as cameras, recorders and damage make them: made from healthy ones, by their bytes or packets."""

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.stream import Disposition
from PIL import Image

from tests.csd_core.io.clips import clip


def textured(count: int = 24, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """Frames that move, with enough detail that each is some hundred bytes of H.264."""
    levels = np.random.default_rng(0).integers(0, 256, (height, width + 3 * count, 3), dtype=np.uint8)
    wide = cv2.blur(levels, (3, 3))
    return [np.ascontiguousarray(wide[:, 3 * k : 3 * k + width]) for k in range(count)]


def packets(path: Path, track: int = 0) -> list[tuple[int, int]]:
    """(where it begins in the file, bytes) of each packet of a track."""
    with av.open(path) as container:
        stream = container.streams[track]
        return [(packet.pos or 0, packet.size) for packet in container.demux(stream) if packet.size]


def shift(path: Path, track: int, by: Mapping[int, int]) -> Path:
    """Move packets of a track of a .mkv in time: the number of a packet -> milliseconds."""
    data = bytearray(path.read_bytes())
    places = packets(path, track)
    for k, milliseconds in by.items():
        at = places[k][0] + 1  # after the number of the track
        data[at : at + 2] = struct.pack(">h", struct.unpack(">h", data[at : at + 2])[0] + milliseconds)
    path.write_bytes(data)
    return path


def damage(path: Path, *numbers: int, skip: int = 60) -> Path:
    """Flip bits within these packets of the first track."""
    data, places = bytearray(path.read_bytes()), packets(path)
    for k in numbers:
        start, size = places[k]
        for at in range(start + min(skip, size // 2), start + size, 40):
            data[at] ^= 0x55
    path.write_bytes(data)
    return path


def join(path: Path, *parts: Path) -> Path:
    """Transport streams one after the other, as `cat` joins them."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def cut(source: Path, path: Path, first: int) -> Path:
    """The pictures of a video without its first packets, as in a recording that begins between key frames."""
    with av.open(source) as container, av.open(path, "w") as output:
        stream: Any = container.streams.video[0]
        added: Any = output.add_stream_from_template(stream)
        for k, packet in enumerate(container.demux(stream)):
            if packet.size and k >= first:
                packet.stream = added
                output.mux(packet)
    return path


def rename_codec(path: Path, tracks: Sequence[int]) -> Path:
    """Give tracks of AAC in an .mp4 the codec of Apple's spatial sound, which FFmpeg does not know."""
    data = path.read_bytes()
    for known, unknown in ((b"mp4a", b"apac"), (b"esds", b"dapa")):
        parts = data.split(known)
        marks = [unknown if k in tracks else known for k in range(len(parts) - 1)]
        data = b"".join(part + mark for part, mark in zip(parts, [*marks, b""], strict=True))
    path.write_bytes(data)
    return path


def crowded(path: Path) -> Path:
    """A .mkv with two tracks of pictures, a subtitle, an attachment and chapters of 0.3 s."""
    with av.open(path, "w") as container:
        chapters = [("One", 0, 300), ("Two", 300, 600), ("Three", 600, 900)]
        container.set_chapters(
            [
                {
                    "id": k,
                    "start": start,
                    "end": end,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": title},
                }
                for k, (title, start, end) in enumerate(chapters)
            ]
        )
        streams: list[Any] = [container.add_stream("mpeg4", rate=10) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        subtitle: Any = container.add_mux_stream("subrip")
        container.add_attachment("letters.ttf", "application/x-truetype-font", b"none")
        for k in range(9):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 * k, np.uint8), "rgb24")
                container.mux(stream.encode(frame))
        words = av.Packet(b"words")
        words.stream, words.pts, words.dts, words.duration = subtitle, 0, 0, 900
        words.time_base = Fraction(1, 1000)
        container.mux(words)
        for stream in streams:
            container.mux(stream.encode())
    return path


def with_extra(path: Path, kind: str) -> Path:
    """A video with a cover, or with a track of data."""
    frames = [av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 * k, np.uint8), "rgb24") for k in range(5)]
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        extra: Any = container.add_stream("mjpeg") if kind == "cover" else container.add_data_stream()
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        if kind == "cover":
            extra.height, extra.width, extra.pix_fmt = 32, 48, "yuvj420p"
            extra.disposition = Disposition.attached_pic
        for frame in [*frames, None]:
            container.mux(stream.encode(frame))
        if kind == "cover":
            container.mux([*extra.encode(frames[0]), *extra.encode()])
        else:
            packet: Any = av.Packet(b"here")
            packet.stream, packet.pts, packet.dts, packet.time_base = extra, 0, 0, Fraction(1, 10)
            container.mux(packet)
    return path


def clear(path: Path, codec: str = "libvpx-vp9") -> Path:
    """A .webm of two frames: its left half is transparent."""
    pixels = np.full((64, 64, 4), (200, 40, 40, 255), np.uint8)
    pixels[:, :32, 3] = 0
    with av.open(path, "w") as container:
        stream: Any = container.add_stream(
            codec, rate=10, options={"crf": "4", "b": "1M", "auto-alt-ref": "0"}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuva420p"
        for _ in range(2):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format="yuva420p"))
            )
        container.mux(stream.encode())
    return path


def healthy(path: Path, params: str, codec: str = "libx264") -> Path:
    """40 frames with a key frame every ten, coded as `params` of the encoder say."""
    name = {"libx264": "x264-params", "libx265": "x265-params"}.get(codec)
    options = {name: f"keyint=10:min-keyint=10:{params}"} if name else {"g": "10", "bf": "2", "b": "2M"}
    return clip(path, textured(40), codec=codec, options=options)


def mjpeg_with_exif(path: Path, frames: Sequence[np.ndarray]) -> Path:
    """An .avi of JPEGs with EXIF, as some cameras write it."""
    exif = Image.Exif()
    exif[271] = "Camera"
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuvj420p"
        for k, frame in enumerate(frames):
            data = BytesIO()
            Image.fromarray(frame).save(data, "JPEG", exif=exif)
            packet: Any = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, k, k, Fraction(1, 10)
            packet.is_keyframe = True
            container.mux(packet)
    return path
