"""How a diffusers folder is laid out: its parts, and the names of the files that are taken of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sfumato.errors import ModelError
from sfumato.models.files import CONVERT, PICKLED

INDEX: Final = "model_index.json"

# Parts of a pipeline that no method uses: never downloaded, never loaded.
UNUSED: Final = ("safety_checker", "feature_extractor", "image_encoder")

TOKENIZERS: Final = ("tokenizer", "tokenizer_2", "tokenizer_3")
VOCABULARY: Final = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")

_TEXT: Final = ("CLIPTextModel", "CLIPTextModelWithProjection")
_TOKENIZER: Final = ("CLIPTokenizer", "CLIPTokenizerFast")
T5_TOKENIZER: Final = ("T5Tokenizer", "T5TokenizerFast")
_T5: Final = ("T5EncoderModel",)

# Part -> the classes that are built for it. A scheduler's class is looked at where its schedule is read.
CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    "unet": ("UNet2DConditionModel", "UNet2DModel"),
    "vae": ("AutoencoderKL", "AsymmetricAutoencoderKL", "AutoencoderTiny"),
    "text_encoder": _TEXT,
    "text_encoder_2": _TEXT,
    "tokenizer": _TOKENIZER,
    "tokenizer_2": _TOKENIZER,
}

# Of flow models: these instead
_FLOW: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "StableDiffusion3Pipeline": {
        "transformer": ("SD3Transformer2DModel",),
        "text_encoder_3": _T5,
        "tokenizer_3": T5_TOKENIZER,
    },
    "FluxPipeline": {"transformer": ("FluxTransformer2DModel",), "text_encoder_2": _T5, "tokenizer_2": T5_TOKENIZER},
}


def is_flow(family: str) -> bool:
    """Whether models of this pipeline class are rectified flows."""
    return family in _FLOW


def classes_of(family: str, component: str) -> tuple[str, ...]:
    """The classes that are built for a part of a model of this pipeline class."""
    known: Mapping[str, tuple[str, ...]] = next((parts for name, parts in _FLOW.items() if _alike(family, name)), {})
    return known.get(component) or CLASSES.get(component, ())


def _alike(pipeline_class: str, family: str) -> bool:
    """Whether a class such as FluxImg2ImgPipeline has the parts of a family such as FluxPipeline."""
    start = family.removesuffix("Pipeline")
    return pipeline_class.startswith(start) and not pipeline_class.removeprefix(start)[:1].isdigit()


def missing_parts(family: str) -> tuple[str, ...]:
    """Parts that a model of this pipeline class may come without."""
    if not is_flow(family):
        return ()
    ends = ("", "_2", "_3") if "tokenizer_3" in _FLOW[family] else ("", "_2")
    return tuple(f"{part}{end}" for part in ("text_encoder", "tokenizer") for end in ends)


def parts_of(family: str) -> tuple[str, ...]:
    """The parts that a model of this pipeline class must have."""
    if family == "DDPMPipeline":
        return ("unet", "scheduler")
    if is_flow(family):
        return ("transformer", "scheduler", "vae")
    second = ("text_encoder_2", "tokenizer_2") if family == "StableDiffusionXLPipeline" else ()
    return ("unet", "scheduler", "vae", "text_encoder", "tokenizer", *second)


def components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Gives name to (library, class) of the parts that are used."""
    return {name: (value[0], value[1]) for name, value in index.items() if is_part(value) and name not in UNUSED}


def is_part(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def part_of(folder: Path, component: str) -> Path:
    """Where the files of a component lie: in its own folder, or beside the index (the first unconditional models)."""
    own = folder / component
    beside = "scheduler_config.json" if component == "scheduler" else "config.json"
    flat = not own.is_dir() and component in ("unet", "scheduler") and (folder / beside).is_file()
    return folder if flat else own


def config_of(component: str) -> str:
    """Name of the file that holds a part's configuration."""
    if component in TOKENIZERS:
        return "tokenizer_config.json"
    return "scheduler_config.json" if component == "scheduler" else "config.json"


def has_weights(component: str) -> bool:
    return component != "scheduler" and component not in TOKENIZERS


def base_of(library: str) -> str:
    """What the weight files of a library's networks are called, before the variant and the ending."""
    return "diffusion_pytorch_model" if library == "diffusers" else "model"


def weight_files(names: Iterable[str], base: str) -> dict[str | None, list[str]]:
    """Variant to safetensors files: model.fp16.safetensors and model.fp16-00001-of-00002.safetensors are of fp16."""
    found: dict[str | None, list[str]] = {}
    for name in sorted(names):
        stem, _, rest = name.removesuffix(".safetensors").partition(".")
        if name.endswith(".safetensors") and (stem == base or stem.startswith(f"{base}-0")):
            found.setdefault(rest.split("-0")[0] or None, []).append(name)
    return found


def shard_lists(base: str, variant: str | None) -> list[str]:
    """Names that the list of a network's shards may have."""
    if not variant:
        return [f"{base}.safetensors.index.json"]
    places = "{0}.safetensors.index.{1}.json", "{0}.{1}.safetensors.index.json", "{0}.safetensors.{1}.index.json"
    return [place.format(base, variant) for place in places]


def choose_variant(names: Iterable[str], base: str, variant: str | None, *, owner: str, component: str) -> str | None:
    """Gives the variant to take of a part: the one asked for, else the plain one (None), else the only one.

    Args:
        names: The part's files.
        base: As `base_of` gives it.
        variant: The one asked for, if any.
        owner, component: For messages; "" for a network by itself.

    Raises:
        ModelError: There are no safetensors weights, none of that variant, or one must be named.
    """
    names = sorted(names)
    found = weight_files(names, base)
    if variant in found:
        return variant
    if None in found:
        return None
    others = sorted(name for name in found if name)
    part, place = component or "the network", f"{component}/" if component else ""
    if variant is None and len(others) == 1:
        return others[0]
    if others:
        raise ModelError(f"{owner} has {part} only as variant {', '.join(others)}: pass variant={others[0]!r}")
    pickled = [name for name in names if Path(name).suffix.lower() in PICKLED]
    if pickled:
        raise ModelError(
            f"{owner} has {part} only as a pickle ({pickled[0]}), which can run any program when opened, so it is "
            f"not loaded; {CONVERT}"
        )
    raise ModelError(
        f"{owner} has no weights for {part}: expected {place}*.safetensors, named {base}.safetensors or in "
        "shards; download or save it again"
    )


def wanted_files(
    names: Iterable[str], index: Mapping[str, Any], variant: str | None, *, owner: str, with_weights: bool
) -> list[str]:
    """Of all files of a repository, gives those that are taken.

    Args:
        names: Paths of files, from the repository's root.
        index: Its `model_index.json`.
        variant: As for `choose_variant`.
        owner: The repository, for messages.
        with_weights: False for configurations and vocabularies alone.

    Raises:
        ModelError: As `choose_variant`.
    """
    listed, wanted = sorted(names), [INDEX]
    for component, (library, _) in components(index).items():
        own = any(name.startswith(f"{component}/") for name in listed)
        prefix = f"{component}/" if own else ""  # the first unconditional models have their files beside the index
        files = [name.removeprefix(prefix) for name in listed if name.startswith(prefix)]
        taken = {config_of(component), *(VOCABULARY if component in TOKENIZERS else ())}
        if with_weights and has_weights(component):
            base = base_of(library)
            chosen = choose_variant(files, base, variant, owner=owner, component=component)
            taken.update(weight_files(files, base)[chosen], shard_lists(base, chosen))
        wanted += [prefix + name for name in files if name in taken]
    return wanted


def wanted_of_network(names: Iterable[str], *, owner: str) -> list[str]:
    """Of all files of a repository that holds one network by itself, gives those that are taken.

    Raises:
        ModelError: As `choose_variant`.
    """
    files = sorted(name for name in names if "/" not in name)
    chosen = choose_variant(files, base_of("transformers"), None, owner=owner, component="")
    weights = weight_files(files, base_of("transformers"))[chosen] + shard_lists(base_of("transformers"), chosen)
    return [name for name in files if name in {"config.json", "tokenizer_config.json", *VOCABULARY, *weights}]
