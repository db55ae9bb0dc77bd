"""Models of the hub: from the cache without asking, asked for once, and told of with a remedy."""

import shutil
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from safetensors.torch import save_file

from sfumato.errors import ModelError
from sfumato.models import hub
from sfumato.models.layout import wanted_files
from sfumato.models.loading import BUNDLED, here, load_model
from tests.models.original_layout import original_checkpoint
from tests.models.test_loading import UNET, same_weights
from tests.toy import toy_sd_pipeline

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, repo: str, folder: Path) -> Path:
    """Puts `folder` into the cache as the main branch of `repo`."""
    entry = cache / f"models--{repo.replace('/', '--')}"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(folder, entry / "snapshots" / COMMIT))


def test_a_single_file_takes_its_configuration_from_the_cache(sd: Path, cache: Path, tmp_path: Path) -> None:
    expected = toy_sd_pipeline()
    save_file(original_checkpoint(expected), tmp_path / "toy.safetensors")
    with pytest.raises(ModelError, match=r"stable-diffusion-v1-5/.*not \(fully\) in the cache"):
        load_model(tmp_path / "toy.safetensors")
    cached(cache, hub.SHORT_NAMES["sd15"], sd)
    assert same_weights(load_model(tmp_path / "toy.safetensors", device="cpu").unet, expected.unet)


@pytest.mark.parametrize("name", ["sd15", "runwayml/stable-diffusion-v1-5", hub.SHORT_NAMES["sd15"]])
def test_hub_names_work_offline_from_the_cache(sd: Path, cache: Path, name: str) -> None:
    cached(cache, "stable-diffusion-v1-5/stable-diffusion-v1-5", sd)
    model = load_model(name, device="cpu")
    assert (model.name, model.revision) == (name, COMMIT)
    assert same_weights(model.unet, toy_sd_pipeline().unet)


def test_a_folder_wins_over_a_hub_name(sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(sd, tmp_path / "owner" / "model")
    monkeypatch.chdir(tmp_path)
    assert load_model("owner/model", device="cpu").revision.startswith("sha256:")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sd1.5", "there is no model 'sd1.5': did you mean sd15"),
        ("emoji_turbo", "there is no model 'emoji_turbo': did you mean emoji-turbo"),
        ("./gone", "no model file or folder ./gone"),
        ("/gone/model", "no model file or folder /gone/model"),
        ("gone.safetensors", "no model file or folder gone.safetensors"),
        (Path("sd15"), "no model file or folder sd15"),
        ("https://huggingface.co/a/b", "is an address; give the hub id"),
        ("https://example.org/model.safetensors", "is an address; .* download the file and give its path"),
        ("a" * 300, "there is no model"),
        ("~nobody/model", "no model file or folder '?~nobody/model"),
        ("stabilityai/stable-diffusion-2-1", r"all Stable Diffusion 2\.x models; give a local diffusers folder"),
        ("stabilityai/stable-diffusion-2-1-base", "has left the hub"),
        ("sdxl", r"not \(fully\) in the cache.*connect once"),
    ],
)
def test_names_that_lead_nowhere(name: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(name)


def test_the_names_of_embedded_models_are_known() -> None:
    assert set(hub.EMBEDDED) == BUNDLED.keys()


def test_an_incomplete_cache_is_not_taken_for_a_model(sd: Path, cache: Path) -> None:
    (cached(cache, "owner/model", sd) / UNET).unlink()
    with pytest.raises(ModelError, match=r"owner/model|unet"):
        load_model("owner/model")


def test_what_is_here_is_known_without_asking(sd: Path, cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    assert here("emoji") == ""
    assert [here(name) for name in ("owner/model", "sd15", str(sd), "..", "https://a/b", "sd2", "a\x00b")] == [None] * 7
    snapshot = cached(cache, "owner/model", sd)
    assert here("owner/model") == here("owner/model", revision=COMMIT) == COMMIT
    assert here("owner/model", revision="0" * 40) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "model").mkdir(parents=True)  # a folder would win over the hub's name
    assert here("owner/model") is None
    shutil.rmtree(tmp_path / "owner")
    (snapshot / UNET).unlink()
    assert here("owner/model") is None


def test_a_hub_that_cannot_be_reached_is_given_up_soon(monkeypatch: pytest.MonkeyPatch, cache: Path, sd: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"owner/model is not \(fully\) in the cache .*cannot be reached"):
        load_model("owner/model")
    (cached(cache, "owner/half", sd) / UNET).unlink()
    with pytest.raises(ModelError, match=r"owner/half is not \(fully\) in the cache .*no weights for unet"):
        load_model("owner/half")
    assert time.monotonic() - start < 8


def test_of_a_repository_only_what_is_loaded_is_fetched() -> None:
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "safety_checker": ["stable_diffusion", "Checker"]}
    weights = [f"diffusion_pytorch_model{rest}" for rest in (".bin", ".fp16.safetensors", ".safetensors")]
    names = ["None.py", "model.ckpt", "model_index.json", "tokenizer/vocab.json", "tokenizer/x.py", "unet/config.json"]
    names += [*(f"unet/{name}" for name in weights), "safety_checker/model.safetensors", "unet/deep/config.json"]
    taken = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json"]
    assert wanted_files(names, index, None, owner="o/m", with_weights=True) == taken
    taken[2] = "unet/diffusion_pytorch_model.fp16.safetensors"
    assert wanted_files(names, index, "fp16", owner="o/m", with_weights=True) == taken
    assert wanted_files(names, index, None, owner="o/m", with_weights=False) == [taken[0], taken[1], taken[3]]
    with pytest.raises(ModelError, match="o/m has unet only as a pickle"):
        wanted_files(["unet/diffusion_pytorch_model.bin"], index, None, owner="o/m", with_weights=True)


def _refusal(kind: type[errors.HfHubHTTPError]) -> Exception:
    # past the constructor, which wants the response object of whatever HTTP library the hub's client uses
    return kind.__new__(kind, "refused")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_refusal(errors.RepositoryNotFoundError), "owner/model is not on the hub, or is private"),
        (_refusal(errors.GatedRepoError), "is gated: accept its terms at https://huggingface.co/owner/model"),
        (_refusal(errors.RevisionNotFoundError), "has no revision 'v9'"),
        (errors.EntryNotFoundError("none"), "no diffusers model .*safetensors checkpoint"),
        (errors.LocalEntryNotFoundError("none"), "not .*in the cache"),
        (errors.OfflineModeIsEnabled("off"), "HF_HUB_OFFLINE"),
        (_refusal(errors.HfHubHTTPError), "hub refused owner/model .*try again later"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_hub_says_is_told_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def refuse(*arguments: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ModelError, match=message):
        load_model("owner/model", revision="v9")
