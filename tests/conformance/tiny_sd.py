"""The model of the golden cases: Stable Diffusion 1.x at toy width, seeded random weights, CLIP's tokenizer."""

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
