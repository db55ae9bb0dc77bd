"""LPIPS: its arithmetic beside the authors' package's, its backbones, and what is said when weights lack.

The backbones were compared once with torchvision 0.29.2 and the `lpips` package 0.1.4, with the same random weights:
the distances agreed to the last bit. Neither is needed here.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sfumato.metrics import Lpips, MissingNetworkError, lpips_from_features
from sfumato.metrics.backbones import NETWORKS, load_backbone
from sfumato.metrics.lpips import load_heads, normalised
from sfumato.metrics.weights import package_folder, read_weights

NETS = ("alex", "vgg", "squeeze")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights, the only place where any are found."""
    monkeypatch.setenv("SFUMATO_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("sfumato.metrics.lpips.package_folder", lambda name: None)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def random_heads(net: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(channels, generator=generator) for channels in NETWORKS[net][1]().channels]


def write_random_weights(folder: Path, net: str, *, pickled: bool = True) -> None:
    torch.manual_seed(0)
    state = NETWORKS[net][1]().state_dict() | {"classifier.6.bias": torch.zeros(1000)}
    heads = {f"lin{layer}.model.1.weight": head.view(1, -1, 1, 1) for layer, head in enumerate(random_heads(net))}
    if pickled:
        torch.save(state, folder / NETWORKS[net][2][0])
        torch.save(heads, folder / f"lpips_{net}.pth")
    else:
        save_file(state, folder / NETWORKS[net][2][1])
        save_file(heads, folder / f"lpips_{net}.safetensors")


def as_in_the_package(first: list[Tensor], second: list[Tensor], heads: list[Tensor]) -> Tensor:
    """Normalise with a root and 1e-10, square, 1x1 convolution, mean over positions, sum over layers."""
    total = torch.zeros(len(first[0]))
    for one, other, head in zip(first, second, heads, strict=True):
        layer = nn.Conv2d(len(head), 1, 1, bias=False)
        layer.weight.data = head.view(1, -1, 1, 1)
        one, other = (x / (torch.sqrt(torch.sum(x**2, dim=1, keepdim=True)) + 1e-10) for x in (one, other))
        total = total + layer((one - other) ** 2).mean([2, 3]).flatten()
    return total.detach()


def test_arithmetic_is_the_packages() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 6, 7), (2, 8, 3, 3), (2, 4, 1, 2)]
    first, second = ([torch.randn(shape, generator=generator).relu() for shape in shapes] for _ in range(2))
    heads = [torch.rand(shape[1], generator=generator) for shape in shapes]
    first[0][:, :, 0, 0] = 0  # no activation at all at a position
    found = lpips_from_features(first, second, heads)
    assert found.shape == (2,)
    assert torch.allclose(found, as_in_the_package(first, second, heads), rtol=1e-6, atol=0)
    assert not lpips_from_features(first, first, heads).any()


def test_gradient_is_finite_where_nothing_is_active() -> None:
    features = torch.zeros(1, 2, 3, 3, requires_grad=True)
    lpips_from_features([features], [torch.ones(1, 2, 3, 3)], [torch.ones(2)]).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_scaling_is_imagenets() -> None:
    white = normalised(torch.ones(1, 3, 1, 1)).flatten()
    assert white.tolist() == pytest.approx([1.03 / 0.458, 1.088 / 0.448, 1.188 / 0.45])


@pytest.mark.parametrize(
    ("first", "head", "message"),
    [
        ([torch.zeros(1, 2, 3, 3)] * 2, torch.ones(2), "two activations and a head"),
        ([torch.zeros(1, 2, 3, 3)], torch.ones(3), r"heads \(channels,\)"),
        ([torch.zeros(1, 2, 3)], torch.ones(2), "batch, channels, height, width"),
    ],
)
def test_features_that_do_not_fit_are_refused(first: list[Tensor], head: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lpips_from_features(first, first, [head])


@pytest.mark.parametrize(
    ("net", "count", "sides"),
    [("alex", 5, (15, 7, 3, 3, 3)), ("vgg", 5, (64, 32, 16, 8, 4)), ("squeeze", 7, (31, 15, 7, 3, 3, 3, 3))],
)
@torch.no_grad()
def test_backbones_have_the_shapes_of_the_originals(net: str, count: int, sides: tuple[int, ...]) -> None:
    network = NETWORKS[net][1]()
    layers = network(torch.zeros(1, 3, 64, 64))
    assert [tuple(layer.shape[1:]) for layer in layers] == [
        (channels, side, side) for channels, side in zip(network.channels, sides, strict=True)
    ]
    assert len(layers) == count
    network(torch.zeros(1, 3, network.min_side, network.min_side))
    with pytest.raises(ValueError, match=f"{network.min_side} pixels a side"):
        network(torch.zeros(1, 3, network.min_side - 1, 64))


def test_weights_have_torchvisions_names() -> None:
    shapes = {net: {k: tuple(v.shape) for k, v in NETWORKS[net][1]().state_dict().items()} for net in NETS}
    assert list(shapes["alex"]) == [f"features.{i}.{kind}" for i in (0, 3, 6, 8, 10) for kind in ("weight", "bias")]
    assert shapes["alex"]["features.0.weight"] == (64, 3, 11, 11)
    convolutions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    assert list(shapes["vgg"]) == [f"features.{i}.{kind}" for i in convolutions for kind in ("weight", "bias")]
    assert shapes["vgg"]["features.28.weight"] == (512, 512, 3, 3)
    assert shapes["squeeze"]["features.12.expand3x3.weight"] == (256, 64, 3, 3)
    assert shapes["squeeze"]["features.3.squeeze.weight"] == (16, 64, 1, 1)
    assert sum(len(names) for names in shapes.values()) == 10 + 26 + 50


@pytest.mark.parametrize("pickled", [True, False])
@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_weights_load_from_a_folder(folder: Path, net: str, pickled: bool) -> None:
    write_random_weights(folder, net, pickled=pickled)
    distance = Lpips(net)  # type: ignore[arg-type]
    pixels = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(2)) * 2 - 1
    found = distance(pixels, pixels[:1])
    network = load_backbone(net)
    expected = as_in_the_package(
        network(normalised(pixels)), network(normalised(pixels[:1].expand(3, -1, -1, -1))), random_heads(net)
    )
    assert distance.name == f"lpips-{net}"
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert found[0] == 0 < found[1:].min()


@pytest.mark.parametrize("net", NETS)
def test_a_missing_file_is_named_with_its_place_and_the_way_round(folder: Path, net: str) -> None:
    with pytest.raises(MissingNetworkError, match=rf"lpips_{net}\.pth.*{folder}.*EmojiDistance"):
        Lpips(net)  # type: ignore[arg-type]
    heads = {f"lin{layer}.model.1.weight": head for layer, head in enumerate(random_heads(net))}
    torch.save(heads, folder / f"lpips_{net}.pth")
    with pytest.raises(MissingNetworkError, match=rf"{NETWORKS[net][2][0]}.*{folder}.*PixelDistance"):
        Lpips(net)  # type: ignore[arg-type]


def test_files_that_hold_something_else_are_refused(folder: Path) -> None:
    write_random_weights(folder, "alex")
    state = read_weights(folder / NETWORKS["alex"][2][0])
    torch.save({k: v for k, v in state.items() if k != "features.3.bias"}, folder / NETWORKS["alex"][2][0])
    with pytest.raises(ValueError, match=r"features\.3\.bias is missing"):
        Lpips("alex")
    torch.save(state | {"features.3.bias": torch.zeros(7)}, folder / NETWORKS["alex"][2][0])
    with pytest.raises(ValueError, match=r"features\.3\.bias is \(7,\), expected \(192,\)"):
        Lpips("alex")
    torch.save({"lin0.model.1.weight": torch.zeros(1)}, folder / "lpips_alex.pth")
    with pytest.raises(ValueError, match="no LPIPS heads"):
        load_heads("alex")


class Bomb:
    """Unpickled by force, this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_pickle_runs_no_code(folder: Path) -> None:
    torch.save({"lin0.model.1.weight": Bomb(folder / "run")}, folder / "lpips_alex.pth")
    with pytest.raises(ValueError, match="more than tensors, which is not opened"):
        load_heads("alex")
    assert not (folder / "run").exists()


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ValueError, match="alex, vgg, squeeze, got 'resnet'"):
        Lpips("resnet")  # type: ignore[arg-type]


@pytest.mark.skipif(package_folder("lpips") is None, reason="the lpips package, whose heads are read, is not installed")
@pytest.mark.parametrize("net", NETS)
def test_the_packages_heads_are_read(net: str) -> None:
    heads = load_heads(net)  # type: ignore[arg-type]
    assert [len(head) for head in heads] == list(NETWORKS[net][1]().channels)
    assert all(float(head.min()) >= 0 < float(head.max()) for head in heads)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_loading_leaves_the_callers_draws_alone(folder: Path, net: str) -> None:
    write_random_weights(folder, net)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    Lpips(net)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
