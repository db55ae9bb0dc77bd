"""Names of models on the Hugging Face hub, and getting their files with errors that say what to do."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sfumato.errors import ModelError
from sfumato.models.folder import check_folder, check_part, read_index
from sfumato.models.layout import INDEX, wanted_files, wanted_of_network
from sfumato.models.silence import quiet

EMBEDDED: Final = ("emoji", "emoji-turbo", "emoji-flow")
"""Models that come with the package, see `loading.BUNDLED`."""

SHORT_NAMES: Final[dict[str, str]] = {
    "sd14": "CompVis/stable-diffusion-v1-4",
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd-turbo": "stabilityai/sd-turbo",
    "sdxl-turbo": "stabilityai/sdxl-turbo",
    "sd3": "stabilityai/stable-diffusion-3-medium-diffusers",
    "sd35": "stabilityai/stable-diffusion-3.5-medium",
    "flux-dev": "black-forest-labs/FLUX.1-dev",
    "flux-schnell": "black-forest-labs/FLUX.1-schnell",
}
"""What people call a model -> where it lies on the hub."""

MOVED: Final[dict[str, str]] = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Where it was -> where the same weights lie now."""

_PATIENCE: Final = 10
"""Seconds to wait for an answer of the hub."""

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
    known = [*EMBEDDED, *SHORT_NAMES]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ModelError(
        f"there is no model {name!r}: {hint}known names are {', '.join(known)}; else give a hub id (owner/model), a "
        "diffusers folder or a .safetensors file that exists"
    )


def cached(name: str, *, revision: str | None = None, variant: str | None = None) -> Path | None:
    """Gives the complete snapshot of a model in the hub's cache, named after its commit; None if it is not there.

    The hub is not asked, and nothing but the cache is looked into.

    Args:
        name: Short name or hub id; anything else is not there.
        revision: Branch, tag or commit; the main branch by default.
        variant: As for `check_folder`.
    """
    import huggingface_hub

    try:
        found = huggingface_hub.try_to_load_from_cache(resolve_name(name), INDEX, revision=revision)
        if not isinstance(found, str):
            return None
        check_folder(Path(found).parent, variant)
    except (ModelError, ValueError, OSError):  # no such name, not complete
        return None
    return Path(found).parent


def fetch(repo: str, *, revision: str | None, variant: str | None) -> Path:
    """Gives the folder of a hub model in the local cache, after downloading what is missing there.

    A complete cache is used without asking the hub for more than the revision, and without network at all. Where the
    hub cannot be reached, that is said after one try.

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
        if not isinstance(huggingface_hub.try_to_load_from_cache(repo, INDEX, revision=revision), str):
            _reach(repo, revision)
        folder = Path(huggingface_hub.hf_hub_download(repo, INDEX, revision=revision)).parent
    _complete(repo, folder, variant, with_weights=True)
    return folder


def fetch_configuration(repo: str) -> Path:
    """Gives a folder of a hub model's configurations and tokenizers, without weights; from the cache if it is there.

    Raises:
        ModelError: As `fetch`.
    """
    import huggingface_hub

    with _explained(repo, None):
        found = huggingface_hub.try_to_load_from_cache(repo, INDEX)
        if not isinstance(found, str):
            _reach(repo, None)
            found = huggingface_hub.hf_hub_download(repo, INDEX)
    folder = Path(found).parent
    _complete(repo, folder, None, with_weights=False)
    return folder


def fetch_network(name: str, *, revision: str | None, cached: bool) -> Path:
    """Gives the folder of a hub repository that holds one network by itself, from the cache if it is complete there.

    Args:
        name: Hub id.
        revision: Branch, tag or commit; the main branch by default.
        cached: Do not ask the hub.

    Raises:
        ModelError: As `fetch`.
    """
    import huggingface_hub

    repo = resolve_name(name)
    with _explained(repo, revision):
        found = huggingface_hub.try_to_load_from_cache(repo, "config.json", revision=revision)
        if isinstance(found, str):
            try:
                check_part(Path(found).parent)
                return Path(found).parent
            except ModelError:
                if cached:
                    raise
        if cached:
            raise ModelError(f"{repo} is not in the cache; get it with `hf download {repo}`")
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, timeout=_PATIENCE)
        wanted = wanted_of_network([file.rfilename for file in info.siblings or ()], owner=repo)
        patterns = [glob.escape(name) for name in wanted]
        return Path(huggingface_hub.snapshot_download(repo, revision=info.sha, allow_patterns=patterns))


def _reach(repo: str, revision: str | None) -> None:
    """Asks for a model once: the hub's own client tries for half a minute before it says that there is no network."""
    from huggingface_hub import HfApi, constants

    if not constants.HF_HUB_OFFLINE:
        HfApi().model_info(repo, revision=revision, timeout=_PATIENCE)


def _complete(repo: str, folder: Path, variant: str | None, *, with_weights: bool) -> None:
    """Downloads what a snapshot lacks: the files that `check_folder` would take, and no others."""
    import huggingface_hub

    index = read_index(folder)
    try:
        check_folder(folder, variant, weights_of=None if with_weights else ())
        return
    except ModelError as error:
        lacking = error
    try:
        with _explained(repo, folder.name), quiet():
            info = huggingface_hub.HfApi().model_info(repo, revision=folder.name, timeout=_PATIENCE)
            names = [file.rfilename for file in info.siblings or ()]
            wanted = [
                glob.escape(name) for name in wanted_files(names, index, variant, owner=repo, with_weights=with_weights)
            ]
            huggingface_hub.snapshot_download(repo, revision=folder.name, allow_patterns=wanted)
    except ModelError as error:
        raise ModelError(f"{error} ({lacking})") from lacking


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
    except ModelError:
        raise
    except Exception as error:  # three libraries below, each with its own kinds
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib3"):
            raise ModelError(offline) from error
        raise ModelError(f"cannot get {repo}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
