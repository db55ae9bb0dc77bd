"""Where the weights of a metric's network lie on this computer, and reading them safely.

Nothing here downloads. A network is looked for in the folder that `SFUMATO_WEIGHTS` names, in
`~/.cache/sfumato/weights` (`$SFUMATO_CACHE/weights` where that is set), and among the checkpoints of torch hub.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


class MissingNetworkError(FileNotFoundError):
    """The weights of a metric's network are not on this computer; the message says which file goes where.

    A report that catches it leaves a gap: no other number stands in.
    """


def weight_folders() -> list[Path]:
    """Gives the folders that weights are looked for in, first come first served; they need not exist."""
    folders = [_at_home(os.environ.get("SFUMATO_CACHE") or "~/.cache/sfumato") / "weights"]
    if named := os.environ.get("SFUMATO_WEIGHTS"):
        folders.insert(0, _at_home(named))
    return [*folders, Path(torch.hub.get_dir()) / "checkpoints"]


def _at_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # a user without a home: nothing is there
        return Path(path)


def package_folder(package: str) -> Path | None:
    """Gives the folder of an installed package without importing it; None where it is not installed."""
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent if found is not None and found.origin is not None else None


def find_weights(names: Sequence[str], what: str, *, beside: Sequence[Path | None] = (), otherwise: str = "") -> Path:
    """Finds a weight file.

    Args:
        names: File names that hold these weights, the best first.
        what: What they are, for the message ("AlexNet of torchvision").
        beside: Further folders, looked into first; None is passed over.
        otherwise: What to do or to use instead, for the message.

    Returns:
        The first file that is there.

    Raises:
        MissingNetworkError: None is there.
    """
    folders = [*(folder for folder in beside if folder is not None), *weight_folders()]
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    places = ", ".join(str(folder) for folder in weight_folders())
    raise MissingNetworkError(
        f"the weights of {what} are not on this computer: put {' or '.join(names)} into one of {places} (the first is "
        f"named by SFUMATO_WEIGHTS where that is set){'; ' if otherwise else ''}{otherwise}"
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a file of named tensors: safetensors, or a pickle opened with `weights_only=True`, which runs no code.

    Args:
        path: The file.

    Returns:
        Names to tensors, on the CPU.

    Raises:
        ValueError: The file is damaged, or holds something else.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file; get it again") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or holds more than tensors, which is not opened; get it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no named tensors")
    return dict(state)


def load_into(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Fills a network with weights, freezes it and puts it into evaluation mode.

    Args:
        network: Its parameters are replaced. Tensors of the file that it has no place for are passed over: a
            classifier's last layers, say.
        state: From `read_weights`.
        path: Where they came from, for the message.

    Raises:
        ValueError: A tensor is missing or has another shape.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        raise ValueError(f"{path} holds other weights: {missing[0]} is missing, and {len(missing) - 1} more")
    for name, place in wanted.items():
        if state[name].shape != place.shape:
            raise ValueError(f"{path}: {name} is {tuple(state[name].shape)}, expected {tuple(place.shape)}")
    network.load_state_dict({name: state[name] for name in wanted})
    network.requires_grad_(False).eval()
