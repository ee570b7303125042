"""Errors that a user can fix. Commands print the message alone, without a traceback."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class UserError(ValueError):
    """Bad input. The message is one line: what was expected, what came, what to do."""


class NonFiniteError(FloatingPointError):
    """A step of an edit produced NaN or infinity. The canvas is the one before that step.

    Attributes:
        step: the step that failed, counted from 0.
        canvas: latents of the last good state, same shape as the canvas of the edit.
    """

    def __init__(self, step: int, num_steps: int, canvas: "Tensor") -> None:
        super().__init__(
            f"step {step} (of 0..{num_steps - 1}) gave NaN or infinity; the state before it is kept. "
            "Lower the learning rate or the guidance scale, or run the model in float32."
        )
        self.step = step
        self.canvas = canvas


def expect(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise a UserError about the setting called name unless condition holds."""
    if not condition:
        raise UserError(f"{name}: expected {expected}, got {got}")


def expect_text(name: str, text: str) -> None:
    """Raise a UserError unless text is Unicode; letters of another encoding arrive as lone surrogates."""
    got = f"{text!r}; type it again, or set the terminal to UTF-8"
    expect(not any("\ud800" <= letter <= "\udfff" for letter in text), name, "text in UTF-8", got)
