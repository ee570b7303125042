"""The untrained parts: a tokenizer that is always the same, and networks of the stated size."""

import pytest
import torch

from csd_core.mini_editor.edits import INSTRUCTIONS
from csd_core.mini_editor.training import build


@pytest.fixture(scope="module")
def tokenizer():
    return build.build_tokenizer()


def test_merges_by_hand():
    # (l, o) stands in both words; then (lo, w</w>) and (w</w>, er) tie on 1 and spelling decides.
    assert build.byte_pair_merges(["low", "lot"]) == [("l", "o"), ("lo", "t</w>"), ("lo", "w</w>")]
    assert build.byte_pair_merges(["a"]) == []


def test_a_known_word_is_one_token(tokenizer):
    for instruction in INSTRUCTIONS.values():
        for wording in (*instruction.wordings, *instruction.unseen):
            assert len(tokenizer(wording).input_ids) == len(wording.split()) + 2, wording


def test_capitals_do_not_matter_and_unknown_words_are_several_pieces(tokenizer):
    assert tokenizer("MAKE IT Snowy").input_ids == tokenizer("make it snowy").input_ids
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("unicorn").input_ids)[1:-1]
    assert len(pieces) > 1
    assert "".join(pieces) == "unicorn</w>"


def test_the_vocabulary_is_the_same_every_time(tokenizer):
    assert build.build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_the_encoder_is_the_given_linear_map():
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(48, build.LATENT_CHANNELS, generator=generator)
    offset = torch.randn(build.LATENT_CHANNELS, generator=generator)
    images = torch.rand(2, 3, 8, 12, generator=generator)
    vae = build.build_vae()
    build.set_encoder(vae, directions, offset)
    with torch.no_grad():
        latents = vae.encode(images * 2 - 1).latents  # type: ignore[union-attr]
    patches = torch.nn.functional.unfold(images, 4, stride=4).transpose(1, 2)
    expected = (patches @ directions + offset).transpose(1, 2).unflatten(2, (2, 3))
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)


def test_the_networks_have_the_stated_size():
    millions = {
        name: sum(p.numel() for p in model.parameters()) / 1e6
        for name, model in (("vae", build.build_vae()), ("unet", build.build_unet()))
    }
    assert millions == {"vae": pytest.approx(0.5, abs=0.05), "unet": pytest.approx(5.9, abs=0.05)}
