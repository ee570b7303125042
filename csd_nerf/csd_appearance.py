"""The appearance of a scene that is edited.

nerfacto learns an appearance for each photo, and renders show the average. A view that was edited has the
average as it was before the first edit, for good, and so have renders from then on: what training makes of
the edits is what renders show. Photos keep their own, so that they do not hold the scene back.
"""

from collections.abc import Sequence
from typing import Any

import torch
from nerfstudio.field_components.embedding import Embedding
from torch import Tensor

NOT_IN_NERFACTO = ("embedding_appearance.shown", "embedding_appearance.edited")
"""Ends of the names of weights that a scene which was never edited need not have."""


class Appearances(Embedding):
    """nerfacto's table of appearances, (views, D), of which those of edited views are one and the same."""

    shown: Tensor
    """(D,), the appearance of edited views and of renders, once there are edited views."""
    edited: Tensor
    """(views,), bool."""

    def build_nn_modules(self) -> None:
        """See nerfstudio."""
        super().build_nn_modules()
        self.register_buffer("shown", torch.zeros(self.out_dim))
        self.register_buffer("edited", torch.zeros(self.in_dim, dtype=torch.bool))
        self._any_edited = False

    def share(self, views: Sequence[int], *, average: bool = True) -> None:
        """Give views that were edited the appearance that renders show: the average, or zeros."""
        if not self._any_edited and average:
            self.shown.copy_(self.embedding.weight.detach().mean(0))
        self.edited[list(views)] = True
        self._any_edited = True

    def mean(self, dim: int = 0) -> Tensor:
        """(D,), what renders show. dim: of nerfstudio's interface; 0."""
        return self.shown if self._any_edited else super().mean(dim)

    def forward(self, in_tensor: Tensor) -> Tensor:
        """Numbers of views (...) -> appearances (..., D)."""
        own = super().forward(in_tensor)
        if not self._any_edited:
            return own
        return torch.where(self.edited[in_tensor][..., None], self.shown, own)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}embedding.weight" in state_dict:  # if it is nerfacto's, no view was edited
            for name, buffer in self.named_buffers(recurse=False):
                state_dict.setdefault(prefix + name, torch.zeros_like(buffer))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._any_edited = bool(self.edited.any())
