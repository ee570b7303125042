"""The rounds of edits on disk.

    edits/round_0001/0007.png ...      the edited views, by number, exactly as training sees them
    edits/round_0001/contact_sheet.png photo, render and edit of every view
    edits/round_0001/state.json        prompt, settings, views

A round is written to a hidden folder and renamed: a kill at any moment leaves whole rounds only.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from csd_core.io.files import folder_written_beside

_SHEET_HEIGHT = 200  # pixels of a row at most
_MARGIN = 6
_CAPTION = 18


class EditedView(NamedTuple):
    """One view of a round. Images are uint8 (3, H, W), of any size each."""

    index: int
    photo: Tensor
    start: Tensor
    edit: Tensor


class Rounds:
    """The folder `edits` of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        """Folder of round `number`, counted from 1."""
        return self.folder / f"round_{number:04d}"

    def write(self, number: int, views: Sequence[EditedView], state: dict[str, Any]) -> Path:
        """Write a round, all or nothing; one that a killed run left there is replaced."""
        with folder_written_beside(self.path(number)) as fresh:
            for view in views:
                _to_pil(view.edit).save(fresh / _file_name(view.index))
            contact_sheet(views).save(fresh / "contact_sheet.png")
            files = {str(view.index): _file_name(view.index) for view in views}
            (fresh / "state.json").write_text(json.dumps({**state, "views": files}, indent=1))
        return self.path(number)

    def read(self, last: int) -> dict[int, Tensor]:
        """Training view -> its latest edit, uint8 (3, H, W), after round `last`.

        Raises:
            OSError: a round is missing.
        """
        edits: dict[int, Tensor] = {}
        for number in range(1, last + 1):
            state = json.loads((self.path(number) / "state.json").read_text())
            for index, name in state["views"].items():
                with Image.open(self.path(number) / name) as image:
                    edits[int(index)] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return edits

    def take_over(self, other: "Rounds", last: int) -> None:
        """Copy rounds 1 to `last` of another run."""
        if self.folder.resolve() == other.folder.resolve():
            return
        for number in range(1, last + 1):
            with folder_written_beside(self.path(number)) as fresh:
                shutil.copytree(other.path(number), fresh, dirs_exist_ok=True)


def contact_sheet(
    views: Sequence[EditedView], heading: Sequence[str] = ("photo", "start", "edit")
) -> Image.Image:
    """One row per view: photo, where the optimisation started, edit."""
    rows = [[_thumbnail(image) for image in view[1:]] for view in views]
    widths = [max(row[column].width for row in rows) for column in range(len(heading))]
    height = _CAPTION + sum(max(cell.height for cell in row) + _MARGIN for row in rows)
    sheet = Image.new("RGB", (sum(widths) + _MARGIN * (len(heading) + 1), height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    x = _MARGIN
    for column, title in enumerate(heading):
        draw.text((x, 3), title, fill="black", font=font)
        y = _CAPTION
        for row in rows:
            sheet.paste(row[column], (x, y))
            y += max(cell.height for cell in row) + _MARGIN
        x += widths[column] + _MARGIN
    return sheet


def _file_name(index: int) -> str:
    return f"{index:04d}.png"


def _to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def _thumbnail(image: Tensor) -> Image.Image:
    picture = _to_pil(image)
    scale = min(1.0, _SHEET_HEIGHT / picture.height)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
