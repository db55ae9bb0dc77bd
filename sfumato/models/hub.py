"""Names of models on the Hugging Face hub, and getting their files with errors that say what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sfumato.errors import ModelError
from sfumato.models.folder import INDEX, UNUSED, check_folder, read_index
from sfumato.models.quiet import quiet

SHORT_NAMES: Final[dict[str, str]] = {
    "sd14": "CompVis/stable-diffusion-v1-4",
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd-turbo": "stabilityai/sd-turbo",
    "sdxl-turbo": "stabilityai/sdxl-turbo",
}
"""What people call a model -> where it lies on the hub."""

MOVED: Final[dict[str, str]] = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Where it was -> where the same weights lie now."""

_GONE = re.compile(r"stabilityai/stable-diffusion-2(-.*)?", re.IGNORECASE)
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_name(name: str) -> str:
    """Gives the hub id that `name` stands for.

    Raises:
        ModelError: The name is unknown, an address, or of a model that has left the hub.
    """
    repo = SHORT_NAMES.get(name, name)
    repo = MOVED.get(repo, repo)
    if "://" in repo:
        raise ModelError(f"{name} is an address; give the hub id (owner/model), or download the file and give its path")
    if _GONE.fullmatch(repo) or name.lower() in ("sd2", "sd20", "sd21"):
        raise ModelError(
            f"{name} has left the hub, as have all Stable Diffusion 2.x models; give a local diffusers folder or a "
            "single .safetensors file with its configuration beside it, or use sd-turbo, which has the same networks"
        )
    if _REPO.fullmatch(repo):
        return repo
    known = ["emoji", *SHORT_NAMES]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ModelError(
        f"there is no model {name!r}: {hint}known names are {', '.join(known)}; else give a hub id (owner/model), a "
        "diffusers folder or a .safetensors file that exists"
    )


def fetch(repo: str, *, revision: str | None, variant: str | None) -> Path:
    """Gives the folder of a hub model in the local cache, after downloading what is missing there.

    A complete cache is used without asking the hub for more than the revision, and without network at all.

    Args:
        repo: Hub id.
        revision: Branch, tag or commit; the main branch by default.
        variant: As for `check_folder`.

    Returns:
        Snapshot folder, which is named after the commit.

    Raises:
        ModelError: The hub cannot be reached, does not have it, or does not give it; or its weights are no safetensors.
    """
    import huggingface_hub

    with _explained(repo, revision):
        folder = Path(huggingface_hub.hf_hub_download(repo, INDEX, revision=revision)).parent
    read_index(folder)
    try:
        check_folder(folder, variant)
    except ModelError:
        with _explained(repo, revision), quiet():
            from diffusers import DiffusionPipeline

            unused = dict.fromkeys(UNUSED)
            DiffusionPipeline.download(repo, revision=folder.name, variant=variant, use_safetensors=True, **unused)
    return folder


def fetch_configuration(repo: str) -> Path:
    """Gives a folder of a hub model's configurations and tokenizers, without weights.

    Raises:
        ModelError: As `fetch`.
    """
    import huggingface_hub

    with _explained(repo, None):
        unused = [f"{name}/*" for name in UNUSED]
        patterns = ["*.json", "*.txt"]
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=patterns, ignore_patterns=unused))


@contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import constants, errors

    page = f"https://huggingface.co/{repo}"
    offline = (
        f"{repo} is not (fully) in the cache {constants.HF_HUB_CACHE}, and the hub cannot be reached; connect once "
        "(HF_HUB_OFFLINE must not be set), or give a local diffusers folder or .safetensors file"
    )
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(f"{repo} is gated: accept its terms at {page}, then log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{repo} is not on the hub, or is private: check the spelling at {page}, log in with `hf auth login` if "
            "it is yours, or give a local folder or .safetensors file"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{repo} has no revision {revision!r}; its branches and tags are at {page}/tree/main"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, FileNotFoundError) as error:
        raise ModelError(offline) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(
            f"{repo} is no diffusers model (no {INDEX}); if it offers a .safetensors checkpoint, download that file "
            "and give its path"
        ) from error
    except errors.HfHubHTTPError as error:
        raise ModelError(f"the hub refused {repo} ({_first_line(error)}); try again later, or see {page}") from error
    except ConnectionError as error:
        raise ModelError(offline) from error
    except Exception as error:  # three libraries below, each with its own kinds
        if "safetensors" in str(error):
            raise ModelError(
                f"{repo} offers no safetensors weights, and pickles are not loaded; look at {page} for a revision or "
                "variant in safetensors, or convert it at https://huggingface.co/spaces/safetensors/convert"
            ) from error
        raise ModelError(f"cannot get {repo}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
