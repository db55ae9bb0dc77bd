"""Loads every kind of model: the embedded one, the hub, a diffusers folder, a single file, a ready pipeline."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from sfumato import checks
from sfumato.errors import ModelError, UsageError
from sfumato.models import hub
from sfumato.models.devices import resolve_device, resolve_dtype
from sfumato.models.files import PICKLED, read_header, refuse_pickle, size_of
from sfumato.models.folder import read_index
from sfumato.models.layout import INDEX, is_flow, parts_of
from sfumato.models.parts import Lora, PathLike, entries, read_parts
from sfumato.models.pipelines import family_of, family_of_checkpoint, load_file, load_folder, refuse_partial
from sfumato.models.ready import (
    check_networks,
    execution_device,
    fingerprint,
    is_offloaded,
    is_quantised,
    networks,
    plain,
)
from sfumato.models.scheduling import scheduler_class, suit
from sfumato.models.silence import quiet
from sfumato.models.speed import AS_LOADED, OFFLOADS, Speed
from sfumato.models.student import put_student
from sfumato.models.traits import traits_of_family

if TYPE_CHECKING:
    import torch

    from sfumato.models.base import Model

BUNDLED: Final = {
    "emoji": "sfumato.emoji.defaults",
    "emoji-turbo": "sfumato.emoji.turbo_defaults",
    "emoji-flow": "sfumato.emoji.flow_defaults",
}
"""Models that come with the package, and the module that says where each lies and what suits it."""

_word = checks.optional(partial(checks.text, most=200, empty="leave it out, or name one"))


def load_model(
    name: Any,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    variant: str | None = None,
    lora: Lora | Sequence[Lora] | None = None,
    embeddings: PathLike | Sequence[PathLike] | None = None,
    vae: PathLike | None = None,
    clip_skip: int = 0,
    loras: Sequence[Lora] = (),
    compile: bool = False,  # noqa: A002 - torch's word
    channels_last: bool = False,
    offload: str | None = None,
) -> Model:
    """Loads a pretrained model behind the one protocol that all methods use.

    Only safetensors files are read, and no code that comes with a model is run.

    Args:
        name: "emoji" (embedded, needs no network), "emoji-turbo", its student for four steps, or "emoji-flow", the same
            weights read as a rectified flow; a short name from `hub.SHORT_NAMES`, such as "sd15"; a hub id; the path of
            a diffusers folder or of one `.safetensors` checkpoint; or a diffusers pipeline that is already there, whose
            networks are then shared. A checkpoint's configuration is looked for beside it (`model_index.json` and its
            folders), then in the hub's cache, then on the hub.
        device: "cuda", "mps", "cpu" or a `torch.device`; by default the first of these that is there (for a pipeline:
            where it is). `Model.device` says which.
        dtype: "fp16", "bf16", "fp32", "fp64" or a `torch.dtype`; by default fp32 on the processor and fp16 elsewhere,
            bf16 for flow models (for a pipeline: what it has).
        revision: Branch, tag or commit of a hub model.
        variant: Part of the weight files' names, such as "fp16"; None: the plain files, or the only variant there is.
        lora: Safetensors LoRA files, one or several, merged into the weights in this order: a file, "file:scale" or
            (file, scale), with a scale in [-100, 100], 1 by default.
        embeddings: Safetensors files of textual inversions; `Model.notes` say which word each is in a prompt.
        vae: Another autoencoder: a diffusers folder, or one safetensors file.
        clip_skip: Last layers of the text encoders that are left out, as some models were trained: 1 is what A1111's
            web UI calls 2. 0: none.
        loras: The same as `lora`, in a list.
        compile: Have torch.compile compile the blocks that the denoising network repeats: faster on a GPU, after the
            first call at each size and number of rows, which takes long. Edits of attention work as they do without,
            and nothing is compiled anew for another step, edit or image; see `sfumato.models.compiling`.
        channels_last: Keep the weights of convolutions in the order in which GPUs compute faster in half precision.
        offload: For a GPU that the model does not fit into: the weights stay in the computer's memory. "model": text
            encoders, denoising network and autoencoder come to the GPU one at a time, each when it is called. "group":
            so do the blocks of the denoising network, at each of its calls, which is slower and takes least. Results
            are the same; methods that differentiate through a network need the memory of all of it. None: the weights
            are on the device.

    Returns:
        The model; its `revision` is the hub commit, or a fingerprint of the files' content.

    Raises:
        UsageError: An argument is wrong; found before anything is loaded.
        ModelError: The model is missing, incomplete, pickled, of an unsupported family, or out of reach.
    """
    ready = None if isinstance(name, (str, os.PathLike)) else name
    if ready is None:
        checks.path("name", name)
    revision = _word("revision", revision)
    variant = _word("variant", variant)
    flags = checks.flag("compile", compile), checks.flag("channels_last", channels_last)
    speed = Speed(*flags, None if offload is None else checks.choice("offload", offload, OFFLOADS))
    if ready is not None and not hasattr(ready, "components"):
        raise UsageError(f"name must be a name, a path or a diffusers pipeline, got {type(name).__name__}")
    if not isinstance(loras, list | tuple):
        raise checks.refuse("loras", "a list of files or (file, scale) pairs", loras)
    added = [*loras, *entries("lora", lora)]
    if ready is not None and (revision or variant or added or embeddings or vae or clip_skip):
        raise UsageError(
            "revision, variant, lora, embeddings, vae, clip_skip are for models loaded here; apply them to the pipeline"
        )
    if ready is not None and offload is not None:
        raise UsageError(
            "offload is for models loaded here; call pipeline.enable_model_cpu_offload() or"
            " pipeline.enable_group_offload(...) before"
        )
    chosen_device = resolve_device(device) if device is not None or ready is None else None
    if offload is not None and chosen_device is not None and chosen_device.type == "cpu":
        raise UsageError("offload is for a GPU; on the processor the weights are already there: leave it out")
    chosen_dtype = resolve_dtype(dtype, chosen_device) if dtype is not None or ready is None else None
    parts = read_parts(added, embeddings, vae, clip_skip)

    if ready is not None:
        title = str(getattr(getattr(ready, "config", None), "_name_or_path", None) or type(ready).__name__)
        return adapter_for(ready, name=title, device=chosen_device, dtype=chosen_dtype, speed=speed)

    source, commit = _locate(name, revision=revision, variant=variant)
    if dtype is None and source.is_dir():
        chosen_dtype = suited_dtype(source, chosen_dtype)
    if source.is_dir():
        pipeline, found = load_folder(source, variant, chosen_dtype)
    else:
        pipeline, found = load_file(source, chosen_dtype, needs_vae=parts.vae is None)
    defaults = _defaults(name, source)
    if (student := getattr(defaults, "STUDENT", None)) is not None:
        found += f"-{put_student(pipeline, student)}"
    notes = parts.apply(pipeline, str(name))
    model = adapter_for(
        pipeline, name=str(name), revision=(commit or found) + parts.revision(), device=chosen_device,
        dtype=chosen_dtype, loras=[file.path.stem for file in parts.loras], clip_skip=parts.clip_skip, speed=speed,
    )  # fmt: skip
    model.notes, model.parts = (*model.notes, *notes), parts.recipe()
    if _read_as_flow(name):
        from sfumato.models.flow_reading import read_as_flow

        model = read_as_flow(model)
    if defaults is not None:
        model.guidance_scale = defaults.GUIDANCE_SCALE
        model.distance, model.encoder = defaults.DISTANCE, defaults.ENCODER
        model.method_options, model.method_guidance = defaults.METHOD_OPTIONS, defaults.METHOD_GUIDANCE
    return model


def _defaults(name: str | os.PathLike[str], source: Path) -> ModuleType | None:
    """What suits a bundled model, `emoji` also where it is named by its folder; None for any other model."""
    if name in BUNDLED:
        return import_module(BUNDLED[str(name)])
    emoji = import_module(BUNDLED["emoji"])
    return emoji if emoji.WEIGHTS.resolve() == source.resolve() else None


def suited_dtype(folder: Path, dtype: torch.dtype | None) -> torch.dtype | None:
    """The default dtype for a model folder: bf16 in the place of fp16 for a flow model, which overflows in that."""
    import torch

    half = dtype == torch.float16 and is_flow(family_of([read_index(folder)["_class_name"]], str(folder)))
    return torch.bfloat16 if half else dtype


def traits_named(
    name: str | os.PathLike[str], *, revision: str | None = None, variant: str | None = None
) -> frozenset[str]:
    """The traits of a model by its name, before it is loaded, see `models.traits`.

    A hub model is downloaded where it is not here.

    Raises:
        ModelError: The model is missing, of an unsupported family, or out of reach.
    """
    source, _ = _locate(name, revision=revision, variant=variant)
    if not source.is_dir():
        return traits_of_family(family_of_checkpoint(read_header(source)))
    traits = traits_of_family(family_of([read_index(source)["_class_name"]], str(source)))
    return traits - {"diffusion"} | {"flow"} if _read_as_flow(name) else traits


def _read_as_flow(name: Any) -> bool:
    return name in BUNDLED and getattr(import_module(BUNDLED[name]), "AS_FLOW", False)


def adapter_for(
    pipeline: Any,
    *,
    name: str,
    revision: str | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    loras: Sequence[str] = (),
    clip_skip: int = 0,
    speed: Speed = AS_LOADED,
) -> Model:
    """Puts the adapter of its family around a diffusers pipeline, after moving the pipeline where it is wanted.

    Without a revision, the content of the pipeline is named, as it is before it is moved. `loras` are the names of LoRA
    files in its weights, which may tell that it is a few-step model now. `clip_skip` last layers of its text encoders
    are left out. `speed` changes the networks for good.

    Raises:
        ModelError: The pipeline is of another family, lacks a part, its network takes more than latents and text, or
            its text encoders have too few layers.
    """
    import torch

    from sfumato.models.flux import Flux
    from sfumato.models.offload import take_offloaded
    from sfumato.models.pixel_ddpm import UnconditionalDDPM
    from sfumato.models.sd3 import StableDiffusion3
    from sfumato.models.sdxl import StableDiffusionXL
    from sfumato.models.stable_diffusion import StableDiffusion

    adapters: dict[str, type[StableDiffusion] | type[UnconditionalDDPM] | type[StableDiffusion3] | type[Flux]] = {
        "StableDiffusionPipeline": StableDiffusion,
        "StableDiffusionXLPipeline": StableDiffusionXL,
        "DDPMPipeline": UnconditionalDDPM,
        "StableDiffusion3Pipeline": StableDiffusion3,
        "FluxPipeline": Flux,
    }
    family = family_of([base.__name__ for base in type(pipeline).__mro__], name)
    refuse_partial(name, family, [part for part in parts_of(family) if getattr(pipeline, part, None) is not None])
    check_networks(pipeline, family, name)
    revision = revision or fingerprint(pipeline)
    elsewhere = any(is_offloaded(network) for _, network in networks(pipeline))
    if elsewhere or any(is_quantised(network) for _, network in networks(pipeline)):
        if device or dtype:
            raise UsageError(f"{name} is offloaded or quantised, so that it has its device and dtype: leave them out")
        if speed != AS_LOADED:
            raise UsageError(
                f"{name} is offloaded or quantised, and is left as it is: leave out compile, channels_last"
            )
    places = (("device", None if speed.offload else device), ("dtype", dtype))
    wanted = {key: value for key, value in places if value is not None}
    try:
        with quiet():
            pipeline.to(**wanted)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{name} does not fit into the memory of {device}; use offload='model', dtype fp16, or device cpu"
        ) from error
    eager = plain(pipeline)
    speed.apply(dict(networks(eager)), name, device)
    model = adapters[family].from_pipeline(eager, name=name, revision=revision)
    if clip_skip:
        assert isinstance(model, StableDiffusion)  # of another, `Parts.apply` has said that it has no text encoder
        model.skip_text_layers(clip_skip)
    if elsewhere:
        take_offloaded(model, execution_device(pipeline, name))
    speed.place(model, device)
    suit(model, scheduler_class(pipeline), names=[Path(name).name], loras=loras)
    return model


def here(name: str, *, revision: str | None = None, variant: str | None = None) -> str | None:
    """Says whether a model can be loaded without opening or fetching anything that the user did not put there.

    For a name that came with an image: it may be the embedded model, or one that lies complete in the hub's cache. A
    local path is neither, whoever's it is.

    Args:
        name, revision, variant: As for `load_model`.

    Returns:
        The revision to load it with, so that the hub is not asked ("" for the embedded model); None if it is not here.
    """
    if name in BUNDLED:
        return ""
    try:
        a_path = name not in hub.SHORT_NAMES and Path(name).exists()  # which would win over a hub id
    except (OSError, ValueError):
        return None
    folder = None if a_path else hub.cached(name, revision=revision, variant=variant)
    return None if folder is None else folder.name


def _locate(name: str | os.PathLike[str], *, revision: str | None, variant: str | None) -> tuple[Path, str | None]:
    """Gives the folder or file, and the commit where it came from the hub."""
    bundled = isinstance(name, str) and name in BUNDLED
    if bundled:
        defaults = import_module(BUNDLED[str(name)])
        path: Path = defaults.WEIGHTS
        if not (path / INDEX).is_file():
            raise ModelError(f"this installation of sfumato lacks the model {name} ({path}); install it again")
        student: Path | None = getattr(defaults, "STUDENT", None)
        if student is not None and not student.is_dir():
            raise ModelError(
                f"this installation of sfumato lacks the model {name} ({student}): take emoji, or train it with"
                " python -m sfumato.emoji.training.turbo MINUTES"
            )
    else:
        path = _path(name)
    if isinstance(name, str) and not bundled and (name in hub.SHORT_NAMES or not path.exists()):
        if name not in hub.SHORT_NAMES and _looks_like_path(name):
            refuse_pickle(path)
            raise ModelError(f"there is no model file or folder {name}; check the path (current folder: {Path.cwd()})")
        folder = hub.fetch(hub.resolve_name(name), revision=revision, variant=variant)
        return folder, folder.name
    refuse_pickle(path)
    if not path.exists():
        raise ModelError(f"there is no model file or folder {path}; check the path (current folder: {Path.cwd()})")
    if revision is not None:
        raise UsageError(f"revision is for hub models; {name} is a local one")
    if not path.is_dir():
        size_of(path)  # refuses a pipe or a device
        if variant is not None:
            raise UsageError(f"variant is for folders and hub models; {name} is a single file")
        if path.suffix.lower() != ".safetensors":
            raise ModelError(f"{path} is no .safetensors file; give one, or a diffusers folder")
    return path, None


def _path(name: str | os.PathLike[str]) -> Path:
    """The path that a name may be, `~` expanded; not necessarily one that exists."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a null, or of an unknown user
        raise ModelError(f"there is no model file or folder {os.fspath(name)[:100]!r} ({error})") from error
    return path


def _looks_like_path(name: str) -> bool:
    if "://" in name:
        return False  # an address, which the hub's side explains
    path = Path(name)
    is_file = path.suffix.lower() in (".safetensors", *PICKLED)
    return path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or is_file
