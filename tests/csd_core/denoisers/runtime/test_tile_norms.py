from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from csd_core.denoisers.runtime.vae import in_tiles


def picture(height: int, width: int, channels: int = 3) -> Tensor:
    """Darker to the right, so that the statistics of a tile are not those of the image."""
    noise = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))
    return noise * torch.linspace(1, 0.1, width) - torch.linspace(0, 1, height)[:, None]


def network(affine: bool) -> nn.Sequential:
    """Looks 3 pixels far, but for its norms."""
    torch.manual_seed(0)
    first, second = nn.GroupNorm(2, 6, affine=affine), nn.GroupNorm(3, 6, affine=affine)
    for norm in (first, second) if affine else ():
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    convolutions = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1)
    return nn.Sequential(
        convolutions[0], first, nn.SiLU(), convolutions[1], second, nn.SiLU(), convolutions[2]
    )


def worst(tiled: Tensor, whole: Tensor) -> float:
    return float((tiled - whole).abs().max() / whole.std())


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("size", [(40, 70), (24, 61)])
@torch.no_grad()
def test_with_their_norms_together_tiles_are_the_whole(affine: bool, size: tuple[int, int]) -> None:
    function, x = network(affine), picture(*size)
    whole = function(x)
    apart = in_tiles(function, x, tile=24, overlap=14, scale=1)
    together = in_tiles(function, x, tile=24, overlap=14, scale=1, network=function)
    assert worst(together, whole) < 1e-4 < 0.1 < worst(apart, whole)


@pytest.fixture(scope="module")
def vae() -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    settings: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "mid_block_add_attention": False,  # it looks at the whole image too, and cannot in tiles
    }
    torch.manual_seed(0)
    return AutoencoderKL(**settings).eval()


def encoded(vae: Any) -> tuple[Callable[[Tensor], Tensor], Tensor, nn.Module, int, Fraction | int]:
    return lambda x: vae.encode(x).latent_dist.mode(), picture(160, 288), vae.encoder, 2, Fraction(1, 2)


def decoded(vae: Any) -> tuple[Callable[[Tensor], Tensor], Tensor, nn.Module, int, Fraction | int]:
    return lambda x: vae.decode(x).sample, picture(80, 144, 4), vae.decoder, 1, 2


@pytest.mark.parametrize("way", [encoded, decoded])
@torch.no_grad()
def test_an_autoencoder_of_diffusers_in_tiles_is_the_whole(vae: Any, way: Callable[[Any], Any]) -> None:
    function, x, part, unit, scale = way(vae)
    whole, settings = function(x), {"tile": 64 * unit, "overlap": 48 * unit, "scale": scale}
    apart = in_tiles(function, x, **settings)
    together = in_tiles(function, x, **settings, network=part)
    assert worst(together, whole) < 1e-3 < 0.1 < worst(apart, whole)
    assert torch.equal(function(x), whole)  # the network is as it was


@torch.no_grad()
def test_the_network_is_as_it_was_after_a_failure() -> None:
    function, x = network(affine=True), picture(40, 70)
    whole = function(x)

    def fails(part: Tensor) -> Tensor:
        function(part)
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        in_tiles(fails, x, tile=24, overlap=14, scale=1, network=function)
    assert torch.equal(function(x), whole)


@torch.no_grad()
def test_norms_that_are_not_in_use_do_not_matter() -> None:
    used, x = network(affine=True), picture(40, 70)
    every = nn.ModuleList([nn.GroupNorm(1, 3), used, nn.GroupNorm(1, 3)])
    together = in_tiles(used, x, tile=24, overlap=14, scale=1, network=every)
    assert torch.equal(together, in_tiles(used, x, tile=24, overlap=14, scale=1, network=used))


@torch.no_grad()
def test_every_norm_costs_a_pass_up_to_it() -> None:
    function, x, seen = network(affine=True), picture(24, 44), []
    for name, part in function.named_children():
        part.register_forward_hook(lambda *_, name=name: seen.append(name))
    in_tiles(function, x, tile=24, overlap=4, scale=1, network=function)
    # two tiles: up to the first norm, up to the second, all
    assert [seen.count(name) for name in "0134"] == [6, 4, 4, 2]
