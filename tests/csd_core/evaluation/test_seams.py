"""Borders of windows, from options and from manifests."""

import json
from pathlib import Path
from typing import Any

import pytest

from csd_core.errors import UserError
from csd_core.evaluation import seams
from csd_core.evaluation.measuring import Borders


def test_borders_are_starts_and_ends_of_windows():
    assert seams.borders((64, 128), 64, 32) == Borders((), (32, 64, 96))
    assert seams.borders((80, 64), 64, 48) == Borders((16, 64), ())  # the last one is flush with the edge
    assert seams.borders((64, 128), 64, 32, margin=32) == Borders((32,), (32, 64, 96))
    assert seams.borders((64, 64), 64, 32) is None
    assert seams.borders((32, 128), 64, 32) is None


def edit_with(folder: Path, **options: Any) -> Path:
    edited = folder / "edited.png"
    usual = {"model": "mini", "method": "csd", "stride": None, "wrap": False}
    manifest = {"command": "csd-edit-panorama", "options": {**usual, **options}}
    (folder / "edited.png.json").write_text(json.dumps(manifest))
    return edited


def test_the_manifest_of_an_edit_has_its_windows(tmp_path: Path):
    """mini: windows of 128 pixels, 8 latent pixels of 4 apart."""
    side = 128
    every = tuple(range(32, 384, 32))
    assert seams.borders_of(edit_with(tmp_path), (side, 384)) == Borders((32, 64, 96), every)
    former = edit_with(tmp_path, borders="none", stride=16)  # an option of a former version
    assert seams.borders_of(former, (side, 384)) == Borders((), tuple(range(64, 384, 64)))
    assert seams.borders_of(edit_with(tmp_path, method="ip2p-patch"), (side, 384)) == Borders((), (128, 256))
    wide = edit_with(tmp_path, model="timbrooks/instruct-pix2pix", method="ip2p-overlap")
    assert seams.borders_of(wide, (512, 1024)) == Borders((), (128, 256, 384, 512, 640, 768, 896))


def test_unknown_windows_are_not_guessed(tmp_path: Path):
    for options in ({"wrap": True}, {"method": "ip2p-resize"}, {"model": "someone/else"}, {"model": "/no"}):
        assert seams.borders_of(edit_with(tmp_path, **options), (128, 384)) is None
    edited = edit_with(tmp_path)
    assert seams.borders_of(edited, (100, 384)) is None  # it was enlarged
    assert seams.borders_of(edited.with_name("other.png"), (128, 384)) is None
    for text in ("[]", "{", '{"command": "csd-edit-panorama"}', '{"command": "x", "options": {}}'):
        (tmp_path / "edited.png.json").write_text(text)
        assert seams.borders_of(edited, (128, 384)) is None


@pytest.mark.parametrize(("window", "stride"), [(64, None), (None, 32), (64, 65), (64, 0)])
def test_windows_that_do_not_fit_are_refused(window: int | None, stride: int | None):
    seams.check(None, None)
    seams.check(64, 64)
    with pytest.raises(UserError, match="--stride"):
        seams.check(window, stride)
