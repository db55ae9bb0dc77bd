"""DISTS: its arithmetic window by window, what it forgives, and what is said when its weights lack."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.metrics import Dists, MissingNetworkError
from sfumato.metrics.dists import CHANNELS, L2Pool, dists_backbone, dists_features, dists_from_features


def test_follows_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 6, 5), (2, 4, 3, 3)]
    first, second = ([torch.rand(shape, generator=generator) for shape in shapes] for _ in range(2))
    alpha, beta = torch.rand(2, 7, generator=generator)
    expected = []
    for row in range(2):
        similarity, channel = 0.0, 0
        for one, other in zip(first, second, strict=True):
            for a, b in zip(one[row].double().numpy(), other[row].double().numpy(), strict=True):
                texture = (2 * a.mean() * b.mean() + 1e-6) / (a.mean() ** 2 + b.mean() ** 2 + 1e-6)
                covariance = np.cov(a.ravel(), b.ravel(), ddof=0)
                structure = (2 * covariance[0, 1] + 1e-6) / (covariance[0, 0] + covariance[1, 1] + 1e-6)
                similarity += float(alpha[channel]) * texture + float(beta[channel]) * structure
                channel += 1
        expected.append(1 - similarity / float(alpha.sum() + beta.sum()))
    assert dists_from_features(first, second, alpha, beta).tolist() == pytest.approx(expected, rel=1e-5)
    assert dists_from_features(first, first, alpha, beta).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_texture_alone_forgives_another_arrangement() -> None:
    values = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(3)
    assert float(dists_from_features([values], [values.flip(3)], weights, 0 * weights)) == pytest.approx(0, abs=1e-6)
    assert float(dists_from_features([values], [values.flip(3)], 0 * weights, weights)) > 0.1


def test_l2_pooling_keeps_a_constant_and_halves_upwards() -> None:
    pooled = L2Pool(2)(torch.full((1, 2, 9, 6), -3.0))
    assert pooled.shape == (1, 2, 5, 3)
    assert torch.allclose(pooled[..., 1:-1, 1:], torch.tensor(3.0))


@torch.no_grad()
def test_backbone_gives_every_channel_a_weight() -> None:
    torch.manual_seed(0)
    network = dists_backbone()
    assert "features.4.window" not in network.state_dict()  # torchvision's names alone
    layers = dists_features(network, torch.zeros(1, 3, 32, 32))
    assert tuple(layer.shape[1] for layer in layers) == CHANNELS
    assert [layer.shape[-1] for layer in layers] == [32, 32, 16, 8, 4, 2]
    with pytest.raises(ValueError, match="1475 channels"):
        dists_from_features(layers, layers, torch.ones(3), torch.ones(3))


def test_missing_and_wrong_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SFUMATO_WEIGHTS", "SFUMATO_CACHE", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(MissingNetworkError, match=r"dists_weights\.pt"):
        Dists()
    torch.save({"alpha": torch.ones(3)}, tmp_path / "dists_weights.pt")
    with pytest.raises(ValueError, match="no weights of DISTS"):
        Dists()
    weights = torch.ones(1, sum(CHANNELS), 1, 1)
    torch.save({"alpha": weights, "beta": weights}, tmp_path / "dists_weights.pt")
    with pytest.raises(MissingNetworkError, match=r"vgg16-397923af\.pth"):
        Dists()
    torch.manual_seed(0)
    torch.save(dists_backbone().state_dict(), tmp_path / "vgg16-397923af.pth")
    pixels = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = Dists()(pixels, pixels[:1])
    assert found[0] == 0 < found[1] < 1
