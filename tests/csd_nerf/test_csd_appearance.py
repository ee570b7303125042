import torch
from nerfstudio.field_components.embedding import Embedding

from csd_nerf.csd_appearance import NOT_IN_NERFACTO, Appearances

VIEWS, DIM = 4, 3


def appearances() -> Appearances:
    torch.manual_seed(0)
    return Appearances(VIEWS, DIM)


def test_before_the_first_edit_it_is_nerfactos() -> None:
    ours, numbers = appearances(), torch.tensor([[0, 3], [1, 1]])
    torch.manual_seed(0)
    theirs = Embedding(VIEWS, DIM)
    assert torch.equal(ours(numbers), theirs(numbers))
    assert torch.equal(ours.mean(dim=0), theirs.mean(dim=0))


def test_edited_views_have_what_renders_show_and_photos_their_own() -> None:
    ours, all_views = appearances(), torch.arange(VIEWS)
    before, average = ours(all_views).detach(), ours.mean().detach()
    ours.share([2, 0])
    with torch.no_grad():
        ours.embedding.weight += 1  # as training would
    ours.share([3])
    after = ours(all_views)
    assert torch.equal(after[[0, 2, 3]], average.expand(3, DIM))
    assert torch.equal(after[1], before[1] + 1)
    assert torch.equal(ours.mean(dim=0), average)


def test_edited_views_learn_no_appearance() -> None:
    ours = appearances()
    ours.share([0])
    ours(torch.tensor([0, 1])).sum().backward()
    assert ours.embedding.weight.grad is not None
    assert ours.embedding.weight.grad.any(dim=1).tolist() == [False, True, False, False]


def test_a_checkpoint_keeps_what_is_shared() -> None:
    ours, again = appearances(), Appearances(VIEWS, DIM)
    ours.share([1])
    again.load_state_dict(ours.state_dict())
    numbers = torch.arange(VIEWS)
    assert torch.equal(again(numbers), ours(numbers))
    assert torch.equal(again.mean(), ours.mean())


def test_a_scene_of_nerfacto_has_no_edited_views() -> None:
    ours, theirs = appearances(), Embedding(VIEWS, DIM)
    ours.share([1])
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.mean(), theirs.mean())
    assert set(ours.state_dict()) - set(theirs.state_dict()) == {
        name.removeprefix("embedding_appearance.") for name in NOT_IN_NERFACTO
    }
