import pytest

from csd_core.mini_editor.captions import CAPTIONS, PLAIN, canonical_captions, known_words, states, wordings
from csd_core.mini_editor.edits import INSTRUCTIONS


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_every_edit_leads_from_one_caption_to_another(name: str) -> None:
    for outcome in INSTRUCTIONS[name].outcomes:
        before, after = canonical_captions(name, outcome)
        assert before != after
        assert {before, after} <= {text for several in CAPTIONS.values() for text in several}


def test_the_outcome_of_a_choice_may_be_left_open() -> None:
    assert states("tint", "red") == (PLAIN, "tint red")
    assert states("tint", "red", with_outcome=False) == (PLAIN, "tint")
    assert states("red to blue") == ("red things", "blue things")


def test_no_caption_is_said_of_two_states() -> None:
    texts = [text for several in wordings().values() for text in set(several)]
    assert len(texts) == len(set(texts))


def test_words_of_captions_and_instructions_are_known() -> None:
    assert {"snowy", "midnight", "hue", "let"} <= set(known_words())
    assert "gogh" not in known_words()
