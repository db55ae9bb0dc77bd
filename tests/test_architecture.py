"""Imports point one way, the heavy libraries stay behind one door, and nothing heavy loads before it is used."""

import ast
import fnmatch
import os
import re
import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sfumato"

# A module or folder of the package imports its own tier and those before it; within a tier, no circles.
TIERS = (
    {
        "errors",
        "files",
        "options",
        "parameters",
        "registry",
        "watch",
        "images",
        "models",
        "tensorfile",
        "checks",
        "json_input",
    },
    {"sampling", "emoji", "judges"},
    {"inversions", "attention", "conditions"},
    {"guidance", "adaptation"},
    {"edits", "morphs", "distillation"},
    {"api", "bench", "run"},
    {"apps"},
    {"__main__"},
)
# Stands by itself: imports nothing of the package, and all may import it.
FREE = {"metrics"}
# The package's own namespace re-exports names from everywhere, so only from here on may they be taken from it.
FIRST_TIER_USING_NAMESPACE = next(rank for rank, tier in enumerate(TIERS) if "api" in tier)
NAMESPACE_FOR_ALL = {"__version__"}

HEAVY = {"diffusers", "transformers"}
HEAVY_ALLOWED = ("sfumato.models", "sfumato.models.*", "sfumato.judges.*", "sfumato.emoji.*")  # they load networks


# Words of one family of models, in any case: above the adapters only their protocol is known.
FAMILY = re.compile(
    r"\b77\b|unet|(down|up|mid)_blocks?\b|\bresnets?\b|\battn[12]\b|\btokenizers?\b|text_encoder|(start|end)[ -]token"
    r"|\bclip('s)? (text|token)|\b0\.18215\b|scaling_factor|cross_attention_kwargs|added_cond"
    r"|\bpooled_(embeds|projections)\b|\bpooled embedding|\btime_ids\b|\btimestep_cond\b|\bextras(\[|\.get\()[\"']",
    re.IGNORECASE,
)
FAMILY_ALLOWED = {"models", "judges", "emoji"}


def imported_names(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yields (line, absolute dotted name) of every import of a module: at its top, in functions, for type checking."""
    parents = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield node.lineno, alias.name
            case ast.ImportFrom():
                start = parents[: len(parents) - node.level + 1] if node.level else []
                for alias in node.names:
                    yield node.lineno, ".".join([*start, *filter(None, [node.module]), alias.name])
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                if name.startswith("."):
                    level = len(name) - len(name.lstrip("."))
                    name = ".".join([*parents[: len(parents) - level + 1], name.lstrip(".")])
                yield node.lineno, name


def violations(package: Path) -> list[str]:
    """Every import below `package`, a folder named sfumato, that breaks the order above, as `file:line: what`."""
    rank_of = {unit: rank for rank, tier in enumerate(TIERS) for unit in tier}
    found: list[str] = []
    arrows: dict[str, set[str]] = defaultdict(set)

    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        unit = None if module == package.name else parts[1]
        if unit is not None and unit not in rank_of and unit not in FREE:
            found.append(f"{path}: give {unit!r} a place in TIERS")
            continue

        for line, name in imported_names(ast.parse(path.read_text(encoding="utf-8")), module, is_package):
            where, (top, *rest) = f"{path}:{line}", name.split(".")
            if top in HEAVY and not any(fnmatch.fnmatchcase(module, pattern) for pattern in HEAVY_ALLOWED):
                found.append(f"{where}: {module} imports {top}; only models/, judges/ and emoji/ may")
            if top != package.name or unit is None:
                continue

            target = rest[0] if rest else ""
            if target in NAMESPACE_FOR_ALL or target == unit:
                continue
            if unit in FREE:
                found.append(f"{where}: {unit} imports {name}; it depends on nothing of the package")
            elif target in rank_of:
                arrows[unit].add(target)
                if rank_of[target] > rank_of[unit]:
                    found.append(f"{where}: {unit} imports {name}; the arrow runs from {target} to {unit}")
            elif target not in FREE and rank_of[unit] < FIRST_TIER_USING_NAMESPACE:
                found.append(f"{where}: {unit} imports {name} from the public face, which stands above it")

    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        found.append(f"a circle: {' <- '.join(error.args[1])}")
    return found


def test_imports_follow_the_design() -> None:
    found = violations(PACKAGE)
    assert not found, "\n".join(found)


def family_words(package: Path) -> list[str]:
    """Lines above the adapters that name a part of one family of models."""
    return [
        f"{path}:{number}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] not in FAMILY_ALLOWED
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if FAMILY.search(line)
    ]


def test_no_file_above_the_adapters_assumes_one_family_of_models() -> None:
    found = family_words(PACKAGE)
    assert not found, "say it by the protocol of models/base.py instead:\n" + "\n".join(found)


def plant(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "sfumato"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return package


def test_checker_accepts_the_order(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {
            "__init__.py": "from sfumato.apps.cli import main",
            "errors.py": "import math",
            "models/loading.py": "import diffusers\nfrom sfumato import __version__\nfrom ..errors import ModelError",
            "emoji/train.py": "import transformers\nfrom sfumato.sampling import sample",
            "sampling/loop.py": "from sfumato import errors\nfrom .ddim import ddim_step",
            "sampling/ddim.py": "from sfumato.metrics.psnr import psnr",
            "metrics/psnr.py": "import torch",
            "edits/method.py": "from sfumato.conditions.align import words\nfrom sfumato.inversions import Inversion",
            "apps/cli.py": "import sfumato\nfrom sfumato import edit, load_model",
        },
    )
    assert violations(package) == []


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("sampling/loop.py", "from sfumato.edits.method import run", "the arrow runs from edits to sampling"),
        ("sampling/loop.py", "import sfumato.conditions.align", "the arrow runs from conditions to sampling"),
        ("sampling/loop.py", "from sfumato import inversions", "the arrow runs from inversions to sampling"),
        ("sampling/deep/loop.py", "from ...morphs import slerp", "the arrow runs from morphs to sampling"),
        ("sampling/__init__.py", "from ..morphs import slerp", "the arrow runs from morphs to sampling"),
        ("watch.py", "from .sampling import ddim", "the arrow runs from sampling to watch"),
        ("edits/method.py", "def run():\n    from sfumato.apps import cli", "the arrow runs from apps to edits"),
        (
            "edits/method.py",
            "if TYPE_CHECKING:\n    from sfumato.api.edit import edit",
            "the arrow runs from api to edits",
        ),
        ("models/base.py", "import_module('sfumato.bench')", "the arrow runs from bench to models"),
        ("models/base.py", "importlib.import_module('..bench', __name__)", "the arrow runs from bench to models"),
        ("edits/method.py", "from sfumato import load_model", "from the public face"),
        ("metrics/psnr.py", "from sfumato.images import read", "depends on nothing of the package"),
        ("edits/method.py", "from diffusers import UNet2DConditionModel", "only models/, judges/ and emoji/ may"),
        (
            "edits/fast.py",
            "def run():\n    import transformers.models.clip",
            "only models/, judges/ and emoji/ may",
        ),
        ("surprise.py", "", "give 'surprise' a place"),
    ],
)
def test_checker_catches(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    (found,) = violations(plant(tmp_path, {file: text}))
    assert complaint in found
    assert file in found


@pytest.mark.parametrize(
    "line",
    [
        "tokens = 77",
        "model.unet(latents)",
        'name.startswith("up_blocks.1")',
        "model.tokenizer.ids(prompt)",
        "# the start token stands first",
    ],
)
def test_checker_catches_an_assumption_of_one_family(tmp_path: Path, line: str) -> None:
    package = plant(tmp_path, {"edits/method.py": f"def run(model):\n    {line}\n", "models/sd.py": line})
    (found,) = family_words(package)
    assert found.endswith(line)
    assert "edits/method.py:2" in found


def test_checker_catches_a_circle(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {"inversions/a.py": "from sfumato.attention import b", "attention/b.py": "from ..inversions import a"},
    )
    (found,) = violations(package)
    assert found.startswith("a circle")


def processor_seconds() -> float:
    """What finished child processes have used of the processor: the same however busy the machine is."""
    used = os.times()
    return used.children_user + used.children_system


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import sfumato", id="import"),
        pytest.param(
            "import contextlib, io; sys.argv = ['sfumato', '--help']; from sfumato.apps.cli import main\n"
            "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as page: main()\n"
            "assert 'edit' in page.getvalue(), page.getvalue()",
            id="help",
        ),
    ],
)
def test_starts_light_and_fast(code: str) -> None:
    program = f"import sys\n{code}\nprint(*sorted({HEAVY | {'torch'}} & set(sys.modules)))"
    seconds: list[float] = []
    while len(seconds) < 3 or (min(seconds) >= 0.5 and len(seconds) < 10):  # the best of some
        before = processor_seconds()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        seconds.append(processor_seconds() - before)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == []
    assert min(seconds) < 0.5


def test_no_body_of_a_function_is_longer_than_a_screen() -> None:
    """Signature and docstring apart, which name and explain every option of a command."""
    long = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if _end(node) - node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0].lineno + 1 > 60
    ]
    assert long == []


def _end(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno
