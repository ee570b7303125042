"""What comes with a photo: EXIF, XMP and resolution, as far as it still holds after an edit."""

import math
import re
from contextlib import suppress
from typing import Any, cast
from xml.dom import minidom

from PIL import ExifTags, Image

from csd_core.io.picture import is_sideways

LONGEST = 32 * 2**20
"""Longer profiles and XMP packets are left out, in bytes. What is written can be read again."""

# Tags of the first directory that describe the photo: description, camera, software, dates, artist, rating,
# titles. The others describe the file, which changes.
PHOTO_TAGS = (270, 271, 272, 305, 306, 315, 316, 18246, 33432, 40091, 40092, 40093, 40094, 40095)
ORIENTATION, EXIF, GPS = ExifTags.Base.Orientation, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo

_NOT_COPIED = (ExifTags.IFD.MakerNote, ExifTags.IFD.Interop)  # hold offsets that do not survive a rewrite
_XMP_ORIENTATION = re.compile(rb'(tiff:Orientation(?:\s*=\s*["\']|>))([1-8])')
_LONGEST_TREE = 4 * 2**20
_INCH, _CENTIMETRE = 2, 3
_GOOGLE = "http://ns.google.com/photos/"
_PARTS = {  # namespaces of XMP about other parts of the file, which an edit does not write
    "http://ns.adobe.com/hdr-gain-map/1.0/": "the gain map (HDR)",
    "http://ns.apple.com/HDRGainMap/1.0/": "the gain map (HDR)",
    f"{_GOOGLE}1.0/camera/": "the video of the motion photo",
    f"{_GOOGLE}1.0/depthmap/": "the depth map",
    f"{_GOOGLE}dd/1.0/device/": "the depth map",
    f"{_GOOGLE}1.0/image/": "the picture that is stored in its XMP",
    f"{_GOOGLE}1.0/audio/": "the sound",
    f"{_GOOGLE}1.0/container/": "further pictures or a video",
    "http://ns.adobe.com/xmp/note/": "the second part of its XMP",
}
_ONLY = {  # of the other namespaces all properties
    f"{_GOOGLE}1.0/camera/": ("Motion", "MicroVideo"),
    "http://ns.adobe.com/xmp/note/": ("HasExtendedXMP",),
}


def photo_exif(exif: Image.Exif) -> bytes | None:
    """The EXIF that describes the photo, or None. Its thumbnail would show the picture before an edit."""
    kept = Image.Exif()
    try:
        kept.update({tag: text_as_bytes(exif[tag]) for tag in PHOTO_TAGS if tag in exif})
        folders = {folder: exif.get_ifd(folder) for folder in (EXIF, GPS)}
        if is_sideways(exif.get(ORIENTATION, 1)):
            height, width = ExifTags.Base.ExifImageHeight, ExifTags.Base.ExifImageWidth
            swapped = {height: folders[EXIF].get(width), width: folders[EXIF].get(height)}
            folders[EXIF] |= {tag: value for tag, value in swapped.items() if value is not None}
        for folder, found in folders.items():
            entries = {tag: text_as_bytes(value) for tag, value in found.items() if tag not in _NOT_COPIED}
            if entries:
                kept[folder] = entries
        return kept.tobytes() if len(kept) else None
    except Exception:  # damaged EXIF raises anything; the picture can be read without
        return None


def text_as_bytes(value: Any) -> Any:
    """Pillow reads text as Latin-1 and writes it as ASCII: letters beyond that are kept as bytes."""
    return value.encode("latin-1", "replace") if isinstance(value, str) and not value.isascii() else value


def resolution(info: dict[Any, Any], exif: Image.Exif) -> tuple[float, float] | None:
    """Pixels per inch across and down of the upright picture; None: not stated, or nonsense."""
    found = info.get("dpi")
    with suppress(Exception):  # damaged EXIF raises anything
        unit = exif.get(ExifTags.Base.ResolutionUnit, _INCH)
        if found is None and unit in (_INCH, _CENTIMETRE):
            tags = ExifTags.Base.XResolution, ExifTags.Base.YResolution
            found = tuple(float(exif[tag]) * (2.54 if unit == _CENTIMETRE else 1) for tag in tags)
    with suppress(TypeError, ValueError):
        across, down = (float(value) for value in found or ())
        if all(math.isfinite(value) and 1 <= value <= 65535 for value in (across, down)):
            return (down, across) if is_sideways(exif.get(ORIENTATION, 1)) else (across, down)
    return None


def exif_with_resolution(exif: bytes | None, dpi: tuple[float, float] | None) -> bytes | None:
    """EXIF for a format that has no other place for the resolution."""
    if dpi is None:
        return exif
    kept, tags = Image.Exif(), ExifTags.Base
    kept.load(exif or b"")
    kept.update({tags.XResolution: dpi[0], tags.YResolution: dpi[1], tags.ResolutionUnit: _INCH})
    return kept.tobytes()


def rgb_profile(icc: bytes) -> tuple[bytes | None, list[str]]:
    """A profile if it fits RGB pixels, and what is left out. Of CMYK the pixels were converted by it."""
    if len(icc) > LONGEST:
        return None, [f"its colour profile, which is longer than {LONGEST >> 20} MiB"]
    if icc[16:20] == b"RGB ":
        return icc, []
    return None, ["its colour profile, which is one for grey"] if icc[16:20] == b"GRAY" else []


def photo_xmp(xmp: bytes | str) -> tuple[bytes | None, list[str]]:
    """The XMP that holds of an upright picture which is alone in its file, and what is left out.

    What it says is elsewhere in the file, such as a gain map, is removed from it. None where that fails.
    """
    xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp.encode() if isinstance(xmp, str) else xmp)
    if len(xmp) > LONGEST:
        return None, [f"its XMP, which is longer than {LONGEST >> 20} MiB"]
    if not any(space.encode() in xmp for space in _PARTS):
        return xmp or None, []
    try:
        if len(xmp) > _LONGEST_TREE:
            raise ValueError("a tree of it might not fit into memory")
        tree = minidom.parseString(xmp.strip(b"\0 \n"))
        parts = _cut(tree)
        # without a declaration, which XMP has not
        return "".join(node.toxml() for node in tree.childNodes).encode(), parts
    except Exception:  # what cannot be parsed raises anything
        return None, ["its XMP, which is damaged or too long"]


def _cut(tree: minidom.Document) -> list[str]:
    """Remove what other parts of the file are described by; their names."""
    parts: dict[str, None] = {}
    for element in cast(list[Any], tree.getElementsByTagName("*")):
        attributes = [element.attributes.item(k) for k in range(element.attributes.length)]
        for attribute in filter(_is_of_part, attributes):
            element.removeAttributeNode(attribute)
            if attribute.value.strip() not in ("0", "false"):  # MotionPhoto="0"
                parts[_PARTS[attribute.namespaceURI]] = None
        if _is_of_part(element):
            element.parentNode.removeChild(element)
            parts[_PARTS[element.namespaceURI]] = None
    if len(parts) > 1:  # they are the pictures that it lists
        parts.pop(_PARTS[f"{_GOOGLE}1.0/container/"], None)
    return list(parts)


def _is_of_part(node: Any) -> bool:
    return node.namespaceURI in _PARTS and node.localName.startswith(_ONLY.get(node.namespaceURI, ""))
