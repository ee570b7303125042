import pytest
import torch

from csd_nerf.editing.views import ViewDeck, on_white, pad_to_one_shape, round_seed


@pytest.mark.parametrize(("num_views", "count"), [(11, 4), (12, 4), (5, 5), (7, 3)])
def test_deck_draws_every_view_once_before_any_twice(num_views: int, count: int) -> None:
    deck = ViewDeck(num_views, seed=3)
    drawn = [deck.draw(count) for _ in range(12)]
    assert all(len(set(views)) == count for views in drawn)
    assert sorted(ViewDeck(3, seed=0).draw(16)) == [0, 1, 2]
    flat = [view for views in drawn for view in views]
    for epoch in range(len(flat) // num_views):
        seen = flat[epoch * num_views : (epoch + 1) * num_views]
        assert set(seen) == set(range(num_views))


def test_deck_continues_from_its_fields() -> None:
    deck = ViewDeck(11, seed=1)
    deck.draw(4)
    again = ViewDeck(deck.num_views, deck.seed, deck.epoch, list(deck.remaining))
    assert [deck.draw(4) for _ in range(6)] == [again.draw(4) for _ in range(6)]


def test_rounds_have_seeds_of_their_own() -> None:
    assert len({round_seed(seed, number) for seed in range(3) for number in range(5)}) == 15
    assert round_seed(0, 1) == round_seed(0, 1)


def test_mixed_sizes_are_padded_to_one_shape() -> None:
    images = [torch.rand(3, 8, 21), torch.rand(3, 30, 8), torch.rand(3, 1, 2)]
    padded = pad_to_one_shape(images)
    assert padded.shape == (3, 3, 30, 21)
    for image, whole in zip(images, padded, strict=True):
        torch.testing.assert_close(whole[:, : image.shape[1], : image.shape[2]], image, rtol=0, atol=0)


def test_padding_mirrors_repeatedly() -> None:
    image = torch.arange(3.0).view(1, 1, 3).expand(3, 1, 3)
    wide = pad_to_one_shape([image, torch.zeros(3, 1, 9)])[0, 0, 0]
    assert wide.tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0]


def test_transparent_parts_of_a_photo_are_white() -> None:
    image = torch.tensor([[[0.2, 0.4, 0.6, 0.0], [0.2, 0.4, 0.6, 0.5]]])
    expected = torch.tensor([[1.0, 0.6], [1.0, 0.7], [1.0, 0.8]])[:, None]
    torch.testing.assert_close(on_white(image), expected)
