"""How an output is coded: the encoder, its quality and pixel format, and the times of frames in ticks.

The user's choice is checked, and one frame is encoded to find out what the encoder takes.
"""

import os
from dataclasses import replace
from fractions import Fraction
from math import gcd, lcm
from pathlib import Path

import av
import av.error

from csd_core.errors import UserError, expect
from csd_core.io.images import sides
from csd_core.io.video_colours import Colours
from csd_core.io.video_muxer import ANIMATIONS, CONTAINERS, Coding, encode_trial
from csd_core.io.videos import Video

_CRF = {
    "libx264": (18, 51),
    "libx264rgb": (18, 51),
    "libx265": (20, 51),
    "libvpx-vp9": (30, 63),
    "libvpx": (10, 63),
    "libsvtav1": (28, 63),
    "libaom-av1": (28, 63),
}
"""Default and largest quality of the encoders that have such a setting."""
_OPTIONS = {
    # its macroblock tree reads uninitialised memory: the same frames would not always give the same bytes
    "libx264": {"x264-params": "mbtree=0"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "4", "row-mt": "1"},
    "libx265": {"x265-params": "log-level=none"},  # it writes to stderr on its own
    "libwebp_anim": {"quality": "90"},
}
_STORE_RANGE = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1", "mjpeg")


def choose_coding(output: Path, video: Video, codec: str | None, crf: int | None) -> Coding:
    """How to code a video for an output of FFmpeg, whose suffix is known. A frame is encoded to try it.

    Raises:
        UserError: the codec is missing, does not fit or refuses the size or the quality.
    """
    suffix = output.suffix.lower()
    if suffix in ANIMATIONS:
        check_no_codec(output, codec, crf)
        gif = suffix == ".gif"
        unit, name = (Fraction(1, 100), "gif") if gif else (Fraction(1, 1000), "libwebp_anim")
        ticks = _ticks(video, unit, least=2 if gif else 1)
        options, kind = _OPTIONS.get(name, {}), "pal8" if gif else "bgra"
        draft = Coding(ANIMATIONS[suffix], name, kind, unit, ticks, options, None)
        return _with_pixel_format(output, video, draft, [kind])
    name = _encoder(codec or ("libvpx-vp9" if suffix == ".webm" else "libx264"))
    options = _OPTIONS.get(name, {}) | _quality(name, crf)
    # mkv and webm round to milliseconds on their own
    milli = suffix in (".mkv", ".webm") and video.rate is None
    unit = Fraction(1, 1000) if milli else _unit(video)
    draft = Coding(CONTAINERS[suffix], name, "", unit, _ticks(video, unit), options, None)
    return _with_pixel_format(output, video, draft, _pixel_formats(name, video.size))


def check_no_codec(output: Path, codec: str | None, crf: int | None) -> None:
    """Check that no encoder is asked for, of an animation or a folder."""
    kind = f"{output.suffix.lower()} output" if output.suffix else "a folder of PNGs"
    expect(codec is None, "--codec", f"none for {kind}", f"{codec}; leave it out, or write a .mp4 or .mkv")
    expect(crf is None, "--crf", f"none for {kind}", f"{crf}; leave it out, or write a .mp4 or .mkv")


def _encoder(name: str) -> str:
    expected = "a video encoder of FFmpeg, such as libx264, libx265, libvpx-vp9 or ffv1"
    try:
        codec = av.Codec(name, "w")
    except ValueError as error:
        got = f"{name}, which is missing; choose another"
        raise UserError(f"--codec: expected {expected}, got {got}") from error
    expect(codec.type == "video", "--codec", expected, f"{name}, which is for {codec.type}; choose another")
    if codec.name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "0")  # it writes to stderr on its own
    return codec.name


def _quality(name: str, crf: int | None) -> dict[str, str]:
    if name not in _CRF:
        expect(crf is None, "--crf", f"none, since {name} has no such setting", f"{crf}; leave it out")
        return {}
    default, top = _CRF[name]
    expect(crf is None or 0 <= crf <= top, "--crf", f"a number from 0 to {top} for {name}", crf)
    return {"crf": str(default if crf is None else crf)}


def _unit(video: Video) -> Fraction:
    """The longest tick of which all times are multiples."""
    stamps = [*video.times[1:], video.end]
    bottom = lcm(*(s.denominator for s in stamps))
    common = Fraction(gcd(*(int(s * bottom) for s in stamps)), bottom)
    return common if common.denominator <= 1_000_000 else Fraction(1, 90_000)


def _ticks(video: Video, unit: Fraction, least: int = 1) -> tuple[int, ...]:
    """Times to the nearest tick, and at least so many apart."""
    ticks: list[int] = []
    for stamp in (*video.times, video.end):
        nearest = round(stamp / unit)
        ticks.append(max(nearest, ticks[-1] + least) if ticks else nearest)
    return tuple(ticks)


def _with_pixel_format(output: Path, video: Video, coding: Coding, names: list[str]) -> Coding:
    """The first that the encoder takes at this size."""
    if coding.codec == "libx265":  # below that it writes outside its memory, which ends the whole process
        got = f"{sides(video.size)}; choose another with --codec"
        expect(min(video.size) >= 64, str(output), "sides of at least 64 for libx265", got)
    failure: Exception | None = None
    for name in names:
        candidate = replace(coding, pixel_format=name, colours=_output_colours(video, coding.codec, name))
        try:
            encode_trial(candidate, video)
        except (av.error.FFmpegError, ValueError) as error:
            failure = error
        else:
            return candidate
    reason = getattr(failure, "strerror", None) or failure or "it has no pixel format that is written here"
    reason = " ".join(str(reason).split())
    expected = f"a codec that {output.suffix.lower()} holds at {sides(video.size)}"
    got = f"{coding.codec} ({reason}); choose another with --codec, or write another kind of file"
    raise UserError(f"{output}: expected {expected}, got {got}")


def _pixel_formats(codec: str, size: tuple[int, int]) -> list[str]:
    """What to try: RGB where nothing is lost, few colours where sides are even or the codec does not mind."""
    known = [pixel_format.name for pixel_format in av.Codec(codec, "w").video_formats or []]
    if codec in ("ffv1", "libx264rgb", "png", "qtrle", "utvideo", "huffyuv"):
        wanted = ["rgb24", "gbrp", "bgr0"]
    elif size[0] % 2 or size[1] % 2:
        plain = ["yuv420p", "yuv444p"]
        wanted = plain if codec.startswith(("libvpx", "libsvtav1", "mpeg4")) else plain[::-1]
    else:
        wanted = ["yuv420p", "yuv444p"]
    wanted += ["yuvj420p", "yuvj444p", "yuv422p10le"]
    return [name for name in wanted if name in known] or known[:1]


def _output_colours(video: Video, codec: str, pixel_format: str) -> Colours | None:
    """How the output codes its colours: as the source if the codec can store that. None for RGB."""
    if av.VideoFormat(pixel_format).is_rgb or pixel_format == "pal8":
        return None
    full = video.colours.full and codec in _STORE_RANGE
    return video.colours._replace(full=full or pixel_format.startswith("yuvj"))
