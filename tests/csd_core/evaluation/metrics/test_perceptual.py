import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from csd_core.errors import UserError
from csd_core.evaluation.metrics.perceptual import Inception, Lpips


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AlexNet's weights, random, as torchvision stores them."""
    import torchvision

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("trunk") / "alexnet.pth"
    state = torchvision.models.alexnet(weights=None).state_dict()
    torch.save({name: value for name, value in state.items() if name.startswith("features")}, path)
    return path


@pytest.fixture(scope="module")
def lpips(trunk: Path) -> Lpips:
    return Lpips.from_pretrained(trunk=trunk, device="cpu")


def pictures(count: int, seed: int = 0, size: int = 64) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_lpips_is_that_of_torchmetrics(trunk: Path, lpips: Lpips) -> None:
    from torchmetrics.functional.image.lpips import _LPIPS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs: Any = _LPIPS(net="alex", pnet_rand=True)
    state = torch.load(trunk, weights_only=True)
    theirs.net.load_state_dict(
        {name: state[f"features.{name.split('.', 1)[1]}"] for name, _ in theirs.net.named_parameters()}
    )
    a, b = pictures(3), pictures(3, 1)
    with torch.no_grad():
        expected = theirs(a, b, normalize=True).flatten()
    assert float(expected.min()) > 0
    assert torch.allclose(lpips.distances(a, b), expected, rtol=1e-4)


def test_lpips_of_consecutive_frames(trunk: Path, lpips: Lpips) -> None:
    frames = pictures(4)
    expected = lpips.distances(frames[:-1], frames[1:])
    by_two = Lpips.from_pretrained(trunk=trunk, device="cpu", batch_size=2)
    assert torch.allclose(by_two.consecutive(iter(frames)), expected, rtol=1e-5)
    assert lpips.consecutive(frames[:1]).shape == (0,)
    with pytest.raises(UserError, match="at least 32"):
        lpips.distances(pictures(2, size=31), pictures(2, size=31))
    with pytest.raises(UserError, match="one size"):
        lpips.consecutive([*pictures(2), *pictures(1, size=40)])


def test_weights_are_found_in_the_hubs_folder_or_named(
    trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for load, name, flag in (
        (Lpips.from_pretrained, "alexnet-owt-7be5be79.pth", "--lpips-weights"),
        (Inception.from_pretrained, "weights-inception-2015-12-05-6726825d.pth", "--inception-weights"),
    ):
        with pytest.raises(UserError, match=flag) as error:
            load(device="cpu")
        assert str(tmp_path / "checkpoints" / name) in str(error.value)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(trunk.read_bytes())
    Lpips.from_pretrained(device="cpu")


@pytest.mark.parametrize("kind", [Lpips, Inception])
def test_other_weights_are_refused_and_never_executed(kind: Any, tmp_path: Path) -> None:
    """torch-fidelity alone would: it reads its file without weights_only."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    path = tmp_path / "file.pth"
    given: dict[str, Any] = {"trunk" if kind is Lpips else "weights": path}
    for content in (None, {"layer": torch.zeros(1)}, {"layer": Bomb()}):
        path.write_bytes(b"nothing of the kind")
        if content:
            torch.save(content, path)
        with pytest.raises(UserError, match=r"file\.pth: expected"):
            kind.from_pretrained(device="cpu", **given)
    assert not (tmp_path / "executed").exists()


def test_fid_is_that_of_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of random weights in torch-fidelity's own format, on images that no network has to scale."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    with monkeypatch.context() as without_download:
        without_download.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        without_download.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for module in network.modules():  # else the features fade to nothing
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    ours = Inception.from_pretrained(weights=tmp_path / "inception.pth", device="cpu", batch_size=2)
    real, edited = pictures(3, size=299), pictures(4, 1, size=299) * 0.5
    statistics = []
    with torch.no_grad():
        for images in (real, edited):
            features = network((images * 255).round().byte())[0]
            statistics.append(fid_features_to_statistics(features))
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours.fid(iter(real), iter(edited)) == pytest.approx(expected, rel=1e-3)
    assert ours.fid(real, real) == pytest.approx(0, abs=1e-3 * expected)
    with pytest.raises(UserError, match="edited images: expected at least 2"):
        ours.fid(real, real[:1])
