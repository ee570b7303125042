"""How videos code colours, and conversion of their pixels to and from RGB of 8 bits.

The colour tags of a frame decide; where they are missing, the defaults of players. HDR keeps its curve.
"""

from typing import Any, NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
EXACT |= Interpolation.FULL_CHR_H_INP
"""The most exact conversion of swscale."""
MATRIX_RGB = 0
"""Colours.matrix, an AVColorSpace, of what is coded as RGB."""

_BT709, _UNKNOWN, _RESERVED, _BT470BG, _SMPTE170M = 1, 2, 3, 5, 6  # AVColorSpace
_HDR = (16, 18)  # AVColorTransferCharacteristic: PQ and HLG


class Colours(NamedTuple):
    """How a video codes its colours, in the numbers of FFmpeg: AVColorSpace and the like."""

    matrix: int
    full: bool
    transfer: int
    primaries: int

    @property
    def range(self) -> ColorRange:
        """Full range, or the limited one of television."""
        return ColorRange.JPEG if self.full else ColorRange.MPEG

    @property
    def space(self) -> int:
        """The matrix in the numbers of swscale."""
        return Colorspace.ITU601 if self.matrix in (_BT470BG, _SMPTE170M) else self.matrix

    @property
    def is_hdr(self) -> bool:
        """Whether the transfer curve is PQ or HLG."""
        return self.transfer in _HDR


def untagged_colours(height: int) -> Colours:
    """What players assume of a video without tags."""
    return Colours(_BT709 if height >= 720 else _SMPTE170M, False, _UNKNOWN, _UNKNOWN)


def colours_of(frame: VideoFrame) -> Colours | None:
    """How a decoded frame codes its colours; None if it is RGB."""
    if frame.format.is_rgb or frame.format.has_palette:
        return None
    usual = untagged_colours(frame.height)
    matrix = usual.matrix if frame.colorspace in (MATRIX_RGB, _UNKNOWN, _RESERVED) else int(frame.colorspace)
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    return Colours(matrix, full, int(frame.color_trc), int(frame.color_primaries))


def to_rgb(frame: VideoFrame, convert: VideoReformatter, colours: Colours | None, to: str) -> np.ndarray:
    """Pixels of a decoded frame as `to`, rgb24 or rgba: (H, W, 3 or 4) uint8."""
    spaces = {"src_colorspace": colours.space, "src_color_range": colours.range} if colours else {}
    settings: dict[str, Any] = {**spaces, "dst_color_range": ColorRange.JPEG, "interpolation": EXACT}
    return convert.reformat(frame, format=to, **settings).to_ndarray()


def from_rgb(
    frame: VideoFrame, convert: VideoReformatter, colours: Colours | None, pixel_format: str
) -> VideoFrame:
    """An RGB frame in the pixel format of an encoder, with colour tags."""
    target = {"dst_colorspace": colours.space, "dst_color_range": colours.range} if colours else {}
    settings: dict[str, Any] = {**target, "interpolation": EXACT}
    coded = convert.reformat(frame, format=pixel_format, **settings)
    if colours:
        coded.colorspace, coded.color_range = colours.matrix, colours.range
    return coded
