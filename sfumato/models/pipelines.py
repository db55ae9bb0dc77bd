"""From checked files to a diffusers pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sfumato.errors import ModelError
from sfumato.models import hub
from sfumato.models.quiet import quiet
from sfumato.models.weights import INDEX, UNUSED, check_folder, fingerprint, folder_fingerprint, read_header, read_index

if TYPE_CHECKING:
    import torch

# diffusers class -> the class that loads the same parts, whose adapter serves it
_FAMILIES = {
    "StableDiffusionPipeline": "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline": "StableDiffusionPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLPipeline",
    "DDPMPipeline": "DDPMPipeline",
    "DDIMPipeline": "DDPMPipeline",
}
SUPPORTED: Final = (
    "supported are Stable Diffusion 1.x and 2.x, SD-Turbo, Stable Diffusion XL, SDXL-Turbo, and unconditional DDPMs on"
    " pixels"
)

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
    raise ModelError(f"{name} is a {classes[0]}, which no adapter knows; {SUPPORTED}")


def load_folder(folder: Path, variant: str | None, dtype: torch.dtype | None) -> tuple[Any, str]:
    """Loads a diffusers folder; gives the pipeline and the fingerprint of the files.

    Raises:
        ModelError: The folder is incomplete, damaged, pickled, or of an unsupported family.
    """
    family = family_of([read_index(folder)["_class_name"]], str(folder))
    files = check_folder(folder, variant)
    found = folder_fingerprint(folder, files)
    with _reading(folder) as pipelines:
        pipeline_class = getattr(pipelines, family)
        options = _options(family, dtype)
        pipeline = pipeline_class.from_pretrained(
            folder, variant=variant, use_safetensors=True, local_files_only=True, **options
        )
    return pipeline, found


def load_file(file: Path, dtype: torch.dtype | None) -> tuple[Any, str]:
    """Loads a single checkpoint in the layout of the original code; gives the pipeline and the file's fingerprint.

    Raises:
        ModelError: The file is incomplete, damaged, of an unsupported family, or its configuration cannot be had.
    """
    header = read_header(file)
    family = _family_of_checkpoint(file, header)
    if (file.parent / INDEX).is_file():
        configuration = file.parent
        family = family_of([read_index(configuration)["_class_name"]], str(configuration))
    elif any(key.startswith("cond_stage_model.model.") for key in header):
        raise ModelError(
            f"{file} is a Stable Diffusion 2.x checkpoint, whose configuration has left the hub: put a diffusers "
            f"model's {INDEX} with its folders (weights are not needed) beside it"
        )
    else:
        configuration = hub.fetch_configuration(_CONFIGURATIONS[family])
    found = fingerprint(file.parent, (), [file])
    with _reading(file) as pipelines:
        pipeline_class, options = getattr(pipelines, family), _options(family, dtype)
        pipeline = pipeline_class.from_single_file(
            str(file), config=str(configuration), local_files_only=True, **options
        )
        networks = (part for part in pipeline.components.values() if hasattr(part, "parameters"))
        if any(value.is_meta for network in networks for value in network.parameters()):
            raise ModelError(f"{file} is incomplete, some weights are missing; give the whole model")
        # fine-tunes of SDXL say with these two that they predict v, and that their schedule ends at no signal
        if "v_pred" in header:
            pipeline.scheduler.register_to_config(prediction_type="v_prediction")
        if "ztsnr" in header:
            pipeline.scheduler.register_to_config(rescale_betas_zero_snr=True)
    return pipeline, found


def _family_of_checkpoint(file: Path, header: dict[str, Any]) -> str:
    if any(".lora_" in key or ".lora." in key for key in header):
        raise ModelError(f"{file} is a LoRA, not a model; load the model it was made for, with loras=[{str(file)!r}]")
    if not any(key.startswith("model.diffusion_model.input_blocks.") for key in header):
        raise ModelError(f"{file} is no complete checkpoint of a known family; give the whole model. {SUPPORTED}")
    if any(key.startswith("conditioner.embedders.1.") for key in header):
        return "StableDiffusionXLPipeline"
    if any(key.startswith("cond_stage_model.") for key in header):
        return "StableDiffusionPipeline"
    raise ModelError(f"{file} lacks the text encoder (a refiner, or a network only); give the whole model. {SUPPORTED}")


def _options(family: str, dtype: torch.dtype | None) -> dict[str, Any]:
    import diffusers

    version = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
    options: dict[str, Any] = {"dtype" if version >= (0, 42) else "torch_dtype": dtype}
    if family == "DDPMPipeline":
        return options
    unused = dict.fromkeys(UNUSED)
    return options | unused | ({"requires_safety_checker": False} if family == "StableDiffusionPipeline" else {})


def merge_lora(pipeline: Any, file: Path, scale: float, adapter: str) -> None:
    """Adds `scale` times a LoRA to the weights of the pipeline.

    Raises:
        ModelError: It was made for another model.
    """
    misfit = f"LoRA {file} does not fit this model; it was made for another family or size"
    try:
        with quiet() as messages:
            pipeline.load_lora_weights(
                str(file.parent),
                weight_name=file.name,
                adapter_name=adapter,
                use_safetensors=True,
                local_files_only=True,
            )
            taken = adapter in {name for names in pipeline.get_list_adapters().values() for name in names}
            if not taken or any("unexpected keys" in message for message in messages):
                raise ModelError(misfit)  # where only part of it fits, diffusers would go on with that part
            pipeline.fuse_lora(lora_scale=scale, adapter_names=[adapter])
            pipeline.unload_lora_weights()
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise ModelError(f"{misfit} ({_first_line(error)})") from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Yields diffusers' namespace; inside, its chatter is silent and its errors are ours."""
    import safetensors

    try:
        with quiet() as messages:
            import diffusers

            yield diffusers
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelError(f"cannot load {path}: {_first_line(error)}; download or save it again") from error
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} holds a damaged safetensors file ({error}); download or save it again") from error
    random = [message for message in messages if "newly initialized" in message]
    if random:
        raise ModelError(f"{path} is incomplete, some weights are missing: {' '.join(random[0].split())[:300]}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
