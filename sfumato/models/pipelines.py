"""From checked files to a diffusers pipeline."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import ModelError, SfumatoError
from sfumato.models import hub
from sfumato.models.architecture import check_memory, check_sizes, check_types
from sfumato.models.files import Header, read_header
from sfumato.models.folder import Checked, check_folder, parse_index, read_index
from sfumato.models.identify import SUPPORTED, refuse_foreign
from sfumato.models.layout import INDEX, UNUSED, components, has_weights, is_flow, missing_parts, part_of, parts_of
from sfumato.models.scheduling import build_scheduler, read_scheduler
from sfumato.models.silence import quiet
from sfumato.models.weights import fingerprint

if TYPE_CHECKING:
    import torch

# diffusers class -> the class that loads the same parts, whose adapter serves it. What else such a pipeline does with
# its networks is of no matter here; whether the networks themselves are served is asked of their configurations.
_SD = ("", "Img2Img", "Inpaint", "PAG", "PAGImg2Img", "PAGInpaint")
_FAMILIES = {
    **{f"StableDiffusion{kind}Pipeline": "StableDiffusionPipeline" for kind in (*_SD, "InstructPix2Pix", "Depth2Img")},
    **{f"StableDiffusion{kind}Pipeline": "StableDiffusionPipeline" for kind in ("DiffEdit", "SAG", "Panorama")},
    "StableDiffusionAttendAndExcitePipeline": "StableDiffusionPipeline",
    "StableDiffusionPix2PixZeroPipeline": "StableDiffusionPipeline",
    "LatentConsistencyModelPipeline": "StableDiffusionPipeline",
    "LatentConsistencyModelImg2ImgPipeline": "StableDiffusionPipeline",
    **{f"StableDiffusionXL{kind}Pipeline": "StableDiffusionXLPipeline" for kind in (*_SD, "InstructPix2Pix")},
    "DDPMPipeline": "DDPMPipeline",
    "DDIMPipeline": "DDPMPipeline",
    **{f"StableDiffusion3{kind}Pipeline": "StableDiffusion3Pipeline" for kind in ("", "Img2Img", "Inpaint", "PAG")},
    **{f"Flux{kind}Pipeline": "FluxPipeline" for kind in ("", "Img2Img", "Inpaint")},
}

# What begins so -> why it is not served
_REFUSED = {
    "Flux2": "its text is hidden layers of a language model, and its latents are normalised by a batch norm",
    "QwenImage": "its text has a mask and no pooled embedding, and its autoencoder is one of videos",
    "ZImage": "its network takes the time the other way round, and takes lists of images",
    "Flux": "it takes images beside the text",
    "StableDiffusion3": "it takes images beside the text",
}

# Single files hold weights only; their configurations come from here.
_CONFIGURATIONS = {
    "StableDiffusionPipeline": hub.SHORT_NAMES["sd15"],
    "StableDiffusionXLPipeline": hub.SHORT_NAMES["sdxl"],
}


def family_of(classes: Sequence[str], name: str) -> str:
    """Gives the pipeline class that serves the first known one of `classes`.

    Raises:
        ModelError: None is known.
    """
    for class_name in classes:
        if class_name in _FAMILIES:
            return _FAMILIES[class_name]
    for start, reason in _REFUSED.items():
        if classes[0].startswith(start):
            raise ModelError(f"{name} is a {classes[0]}, which is not supported yet: {reason}; {SUPPORTED}")
    raise ModelError(f"{name} is a {classes[0]}, which no adapter knows; {SUPPORTED}")


def refuse_partial(name: str, family: str, parts: Collection[str]) -> None:
    """Raises a `ModelError` for a model of which there are only some parts."""
    missing = [part for part in parts_of(family) if part not in parts]
    if missing:
        raise ModelError(
            f"{name} lacks {', '.join(missing)} (a refiner, or loaded in part); give the complete base model"
        )


def load_folder(folder: Path, variant: str | None, dtype: torch.dtype | None) -> tuple[Any, str]:
    """Loads a diffusers folder; gives the pipeline and the fingerprint of the files.

    Raises:
        ModelError: The folder is incomplete, damaged, pickled, or of an unsupported family.
    """
    family = family_of([read_index(folder)["_class_name"]], str(folder))
    checked = check_folder(folder, variant, family=family)
    refuse_partial(str(folder), family, checked.parts)
    check_memory(str(folder), checked.headers, _item_size(dtype))
    scheduler = read_scheduler(checked, family)
    with _reading(folder) as pipelines, checked.laid_out(family) as laid_out:
        _check_types(pipelines, checked)
        options = _options(family, dtype) | {"scheduler": build_scheduler(scheduler)}
        options |= {part: None for part in missing_parts(family) if part not in checked.parts}
        pipeline = getattr(pipelines, family).from_pretrained(
            laid_out, use_safetensors=True, local_files_only=True, **options
        )
    return pipeline, checked.fingerprint


def load_file(file: Path, dtype: torch.dtype | None, *, needs_vae: bool = True) -> tuple[Any, str]:
    """Loads a single checkpoint in the layout of the original code; gives the pipeline and the content's fingerprint.

    A checkpoint without an autoencoder takes that of the configuration's folder, if it lies beside the file.

    Args:
        file: Safetensors.
        dtype: Of the networks.
        needs_vae: False where another autoencoder is put in: if the file holds none, it gets one of random weights.

    Raises:
        ModelError: The file is incomplete, damaged, of an unsupported family, or its configuration cannot be had.
    """
    header = read_header(file)
    family = family_of_checkpoint(header)
    header.check_floats()
    beside = _folder_beside(file, header)
    has_vae = any(key.startswith("first_stage_model.") for key in header.shapes)
    if not has_vae and needs_vae and not (beside and any((beside / "vae").glob("*.safetensors"))):
        raise ModelError(
            f"{file} holds no autoencoder (VAE), which some checkpoints leave out; name one that fits with vae "
            "(--vae FILE), or give a checkpoint that holds it"
        )
    configuration = beside or hub.fetch_configuration(_CONFIGURATIONS[family])
    family = family_of([read_index(configuration)["_class_name"]], str(configuration))
    checked = check_folder(configuration, family=family, weights_of=("vae",) if needs_vae and not has_vae else ())
    for name, part in checked.parts.items():
        if "config.json" in part.configs and not part.weights and (name != "vae" or has_vae):
            check_sizes(part_of(configuration, name) / "config.json", part.configs["config.json"], [header])
    refuse_partial(str(configuration), family, checked.parts)
    check_memory(str(file), [header, *checked.headers], _item_size(dtype))
    scheduler = read_scheduler(checked, family)
    with _reading(file) as pipelines, checked.laid_out(family) as laid_out:
        _check_types(pipelines, checked)
        options = _options(family, dtype) | {"scheduler": build_scheduler(scheduler)}
        if not has_vae:
            options["vae"] = _own_vae(pipelines, checked, laid_out / "vae", dtype)
        pipeline = getattr(pipelines, family).from_single_file(
            str(file), config=str(laid_out), local_files_only=True, **options
        )
        networks = (part for part in pipeline.components.values() if hasattr(part, "parameters"))
        if any(value.is_meta for network in networks for value in network.parameters()):
            raise ModelError(f"{file} is incomplete, some weights are missing; give the whole model")
        # fine-tunes of SDXL say with these two that they predict v, and that their schedule ends at no signal
        if "v_pred" in header.shapes:
            pipeline.scheduler.register_to_config(prediction_type="v_prediction")
        if "ztsnr" in header.shapes:
            pipeline.scheduler.register_to_config(rescale_betas_zero_snr=True)
    return pipeline, fingerprint(file.parent, checked.small_files, [file, *checked.weights])


def _check_types(pipelines: Any, checked: Checked) -> None:
    for name, (library, class_name) in components(parse_index(checked.folder, checked.index)).items():
        if library == "diffusers" and has_weights(name):  # transformers checks its own
            config = checked.parts[name].configs["config.json"]
            check_types(part_of(checked.folder, name) / "config.json", config, getattr(pipelines, class_name))


def _own_vae(pipelines: Any, checked: Checked, laid_out: Path, dtype: torch.dtype | None) -> Any:
    """The autoencoder of a configuration's folder; without its weights, one of random weights, to be replaced."""
    vae_class = getattr(pipelines, components(parse_index(checked.folder, checked.index))["vae"][1])
    if checked.parts["vae"].weights:
        return vae_class.from_pretrained(laid_out, use_safetensors=True, local_files_only=True, **_dtype(dtype))
    return vae_class.from_config(vae_class.load_config(laid_out)).to(dtype)


def _folder_beside(file: Path, header: Header) -> Path | None:
    """The folder of a single file, if it holds a diffusers model, whose configuration is taken then."""
    if (file.parent / INDEX).exists():
        return file.parent
    if any(key.startswith("cond_stage_model.model.") for key in header.shapes):
        raise ModelError(
            f"{file} is a Stable Diffusion 2.x checkpoint, whose configuration has left the hub: put a diffusers "
            f"model's {INDEX} with its folders (weights are not needed) beside it"
        )
    return None


def family_of_checkpoint(header: Header) -> str:
    """Gives the pipeline class that serves a single file.

    Raises:
        ModelError: None does, or it is no whole model.
    """
    refuse_foreign(header)
    if any(key.startswith("conditioner.embedders.1.") for key in header.shapes):
        return "StableDiffusionXLPipeline"
    if any(key.startswith("cond_stage_model.") for key in header.shapes):
        return "StableDiffusionPipeline"
    raise ModelError(
        f"{header.path} lacks the text encoder (a refiner, or a network only); give the whole model. {SUPPORTED}"
    )


def _item_size(dtype: torch.dtype | None) -> int:
    return 4 if dtype is None else int(dtype.itemsize)


def _dtype(dtype: torch.dtype | None) -> dict[str, Any]:
    import diffusers

    version = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
    return {"dtype" if version >= (0, 42) else "torch_dtype": dtype}


def _options(family: str, dtype: torch.dtype | None) -> dict[str, Any]:
    options = _dtype(dtype)
    if family == "DDPMPipeline":
        return options
    if is_flow(family):
        return options | dict.fromkeys(("feature_extractor", "image_encoder"))
    unused = dict.fromkeys(UNUSED)
    return options | unused | ({"requires_safety_checker": False} if family == "StableDiffusionPipeline" else {})


# What diffusers and transformers only warn of -> what it means
_SAID = {
    "newly initialized": "is incomplete, some weights are missing",
    "were not used when initializing": "holds weights that its configuration has no use for",
}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Yields diffusers' namespace; inside, its chatter is silent and its errors are ours."""
    is_file = path.is_file()  # which may hold more than one model
    try:
        with quiet() as messages:
            import diffusers

            yield diffusers
    except SfumatoError:
        raise
    except Exception as error:  # of three libraries, which meet a configuration's values unprepared
        # the files are read from where they were laid out
        said = re.sub(r"\S*sfumato-\w{8}(?=\W|$)", lambda found: str(path), " ".join(str(error).split()))
        raise ModelError(
            f"cannot load {path}: {said[:300] or type(error).__name__}; download or save it again"
        ) from error
    for said, problem in _SAID.items():
        for message in messages:
            if said in message and not (is_file and "not used" in said):
                raise ModelError(f"{path} {problem}: {' '.join(message.split())[:300]}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
