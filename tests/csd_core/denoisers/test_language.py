"""How alike a prompt and a wording are: by the words that matter, in any order, capitals and spelling."""

import pytest

from csd_core.denoisers.language import likeness, read_language, unknown_prompt_message, words


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("make it night", 1.0),
        ("Night! It? MAKE", 1.0),
        ("one night in Paris", 1 / (1 + 2 / 2)),
        ("make it nice", 0.0),
        ("penguins", 0.0),
        ("make it", 0.0),
        ("", 0.0),
    ],
)
def test_likeness_by_hand(prompt, expected):
    assert likeness(prompt, ["make it night"]) == expected


def test_half_of_a_wording_is_less_than_one_foreign_word_too_many():
    assert likeness("turn purple things green", ["turn orange things green"]) == 1 / 2.5
    assert likeness("turn bright orange things green", ["turn orange things green"]) == 2 / 2.5


def test_the_best_wording_counts():
    assert likeness("add snow", ["let it snow", "add snow", "make it snowy"]) == 1.0
    assert likeness("add snow", []) == 0.0


def test_american_spelling_is_the_same():
    assert words("one gray color") == words("one grey colour")


def test_a_prompt_outside_the_language_is_answered_with_the_language():
    language = {"night": ["make it night", "at midnight"], "tint": ["give it a tint"]}
    message = unknown_prompt_message("turn penguins into chickens", language)
    assert message is not None
    assert "'turn penguins into chickens'" in message
    assert message.endswith("make it night; give it a tint")
    assert unknown_prompt_message("At MIDNIGHT", language) is None
    assert unknown_prompt_message("", language) is None


def test_only_a_folder_with_a_language_file_has_a_language(tmp_path):
    assert read_language(tmp_path) is None
    (tmp_path / "language.json").write_text('{"night": ["make it night"]}')
    assert read_language(tmp_path) == {"night": ["make it night"]}
