"""The models of the golden cases, which lie beside them: networks at toy width with seeded random weights.

Most cases are of `tiny-sd`, a Stable Diffusion 1.x with CLIP's tokenizer.
"""

import shutil
from pathlib import Path

from tests.conformance.golden import COMMITTED


def copy_tiny_sd(root: Path, into: Path) -> Path:
    """Copies the tiny-sd below `root`, or the committed one if there is none, and gives the copy.

    A folder without a tokenizer gets the committed one, which is CLIP's own.
    """
    source = next(folder for folder in (root / "tiny-sd", COMMITTED / "tiny-sd") if folder.is_dir())
    target = into / "tiny-sd"
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    target.chmod(0o755)  # the folder may be a read-only one
    if not (target / "tokenizer").is_dir():
        shutil.copytree(COMMITTED / "tiny-sd" / "tokenizer", target / "tokenizer", copy_function=shutil.copyfile)
    return target


def copy_model(root: Path, name: str, into: Path) -> Path:
    """Copies the model of that name below `root`, or the committed one, and gives the copy.

    One without an index is a network that shares all other parts with tiny-sd.
    """
    if name == "tiny-sd":
        return copy_tiny_sd(root, into)
    source = next((folder for folder in (root / name, COMMITTED / name) if folder.is_dir()), None)
    if source is None:
        raise FileNotFoundError(f"cases name the model {name!r}, which is neither in {root} nor in {COMMITTED}")
    target = into / name
    if not (source / "model_index.json").exists():
        copy_tiny_sd(root, into).rename(target)
    shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
    target.chmod(0o755)
    return target
