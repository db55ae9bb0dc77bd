"""Every way in gives the same weights; every way that must not be taken says which one to take."""

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato.emoji import defaults
from sfumato.errors import ModelError, UsageError
from sfumato.models.devices import resolve_device, resolve_dtype
from sfumato.models.loading import adapter_for, load_model
from sfumato.models.silence import quiet
from tests.models.original_layout import original_checkpoint
from tests.toy import toy_sd_pipeline, toy_sdxl_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def edit_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


# --- the ways in -----------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_weights(sd: Path) -> None:
    model = load_model(sd, device="cpu")
    expected = toy_sd_pipeline()
    assert type(model).__name__ == "StableDiffusion"
    assert same_weights(model.unet, expected.unet)
    assert same_weights(model.vae, expected.vae)
    assert same_weights(model.text_encoders[0], expected.text_encoder)
    assert (model.name, model.device, model.dtype) == (str(sd), torch.device("cpu"), torch.float32)
    assert not model.unet.training


def test_an_sdxl_folder_gives_both_encoders(sdxl: Path) -> None:
    model = load_model(str(sdxl), device="cpu", dtype="bf16")
    assert type(model).__name__ == "StableDiffusionXL"
    assert len(model.text_encoders) == 2
    assert {value.dtype for value in model.unet.parameters()} == {torch.bfloat16}
    assert model.dtype == torch.bfloat16


def test_a_single_file_with_its_configuration_beside_it(copy: Path) -> None:
    expected = toy_sd_pipeline()
    for file in copy.rglob("*.safetensors"):
        file.unlink()
    save_file(original_checkpoint(expected), copy / "toy.safetensors")
    model = load_model(copy / "toy.safetensors", device="cpu")
    assert same_weights(model.unet, expected.unet)
    assert same_weights(model.vae, expected.vae)
    assert same_weights(model.text_encoders[0], expected.text_encoder)


def test_a_single_file_may_say_that_it_predicts_v(copy: Path) -> None:
    checkpoint = original_checkpoint(toy_sd_pipeline())
    save_file(checkpoint | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, copy / "toy.safetensors")
    model = load_model(copy / "toy.safetensors", device="cpu")
    assert model.schedule.prediction_type in ("v", "velocity", "v_prediction")


def test_a_ready_pipeline_is_shared_and_stays_as_it_is() -> None:
    pipeline = toy_sd_pipeline().to(dtype=torch.float64)
    model = load_model(pipeline)
    assert model.unet is pipeline.unet
    assert model.dtype == torch.float64
    with pytest.raises(UsageError, match="apply them to the pipeline"):
        load_model(pipeline, loras=["style.safetensors"])


def test_the_embedded_model(sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(ModelError, match="lacks the model emoji"):
        load_model("emoji")
    shutil.copytree(sd, tmp_path / "weights")
    model = load_model("emoji", device="cpu")
    assert model.name == "emoji"
    assert model.revision == load_model(sd, device="cpu").revision
    by_folder = load_model(tmp_path / "weights", device="cpu")
    assert (by_folder.guidance_scale, by_folder.distance) == (model.guidance_scale, model.distance) == (3.0, "emoji")
    assert by_folder.method_options == model.method_options
    assert load_model(sd, device="cpu").guidance_scale == 7.5


def test_variants_are_chosen_and_named(copy: Path) -> None:
    for part in ("unet", "vae"):
        file = copy / part / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    for variant in ("fp16", None):  # the only one is found by itself
        assert same_weights(load_model(copy, variant=variant, device="cpu").unet, toy_sd_pipeline().unet)
    shutil.copy(
        copy / "vae" / "diffusion_pytorch_model.fp16.safetensors",
        copy / "vae" / "diffusion_pytorch_model.bf16.safetensors",
    )
    with pytest.raises(ModelError, match="vae only as variant bf16, fp16: pass variant='bf16'"):
        load_model(copy)
    with pytest.raises(ModelError, match="variant"):
        load_model(copy, variant="fp8")


def test_an_unknown_variant_is_not_replaced_in_silence(sd: Path) -> None:
    with pytest.raises(ModelError, match="no weights of variant 'fp16'; leave variant out"):
        load_model(sd, variant="fp16")


# --- what is loaded can be told --------------------------------------------------------------------------------------


def test_fingerprints_follow_the_content_and_not_the_place(sd: Path, copy: Path) -> None:
    original = load_model(sd, device="cpu").revision
    assert original.startswith("sha256:")
    assert load_model(copy, device="cpu").revision == original
    edit_weights(copy / UNET, lambda tensors: None)
    assert load_model(copy, device="cpu").revision == original
    edit_weights(copy / UNET, lambda tensors: [tensor.mul_(1.01) for tensor in tensors.values()])
    trained = load_model(copy, device="cpu").revision
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "v_prediction"}))
    assert len({original, trained, load_model(copy, device="cpu").revision}) == 3


def test_the_fingerprint_of_a_pipeline_knows_how_strongly_its_loras_act() -> None:
    from peft import LoraConfig

    def revision(scale: float | None) -> str:
        pipeline: Any = toy_sd_pipeline()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "style")
        if scale is None:
            pipeline.unet.disable_adapters()
        else:
            pipeline.unet.set_adapters(["style"], [scale])
        return load_model(pipeline).revision

    assert revision(1.0) == revision(1.0)
    assert len({revision(1.0), revision(0.5), revision(None)}) == 3


def test_a_pipeline_has_a_fingerprint_too() -> None:
    revisions = [load_model(toy_sd_pipeline(seed=seed)).revision for seed in (0, 0, 1)]
    assert revisions[0] == revisions[1] != revisions[2]


# --- LoRA ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    unet = toy_sd_pipeline().unet
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("lora")
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    return folder / "pytorch_lora_weights.safetensors"


def test_loras_are_merged_by_their_scale(sd: Path, lora: Path) -> None:
    plain = load_model(sd, device="cpu")
    model = load_model(sd, device="cpu", loras=[(lora, 0.25), lora])
    weights, factors = plain.unet.state_dict(), load_file(lora)
    merged = model.unet.state_dict()
    assert merged.keys() == weights.keys()
    for key, weight in weights.items():
        name = f"unet.{key.removesuffix('.weight')}"
        if f"{name}.lora_A.weight" in factors:
            change = factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"]
            torch.testing.assert_close(merged[key], weight + 1.25 * change, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(merged[key], weight)
    assert model.revision.startswith(plain.revision + "+lora:")
    assert model.revision.count("@0.25") == model.revision.count("@1") == 1


def test_loras_that_cannot_be_used(sd: Path, sdxl: Path, lora: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pickle"):
        load_model(sd, loras=[tmp_path / "style.bin"])
    with pytest.raises(ModelError, match=r"no LoRA file .*gone\.safetensors"):
        load_model(sd, loras=[tmp_path / "gone.safetensors"])
    with pytest.raises(ModelError, match="does not fit this model"):
        load_model(sdxl, device="cpu", loras=[lora])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"nothing.of.ours.lora_A.weight": torch.zeros(2, 3)}, foreign)
    with pytest.raises(ModelError, match="does not fit this model"):
        load_model(sd, device="cpu", loras=[foreign])
    with pytest.raises(UsageError, match="list of files"):
        load_model(sd, loras=str(lora))
    with pytest.raises(UsageError, match="the scale of LoRA"):
        load_model(sd, loras=[(lora, float("nan"))])
    with pytest.raises(ModelError, match="is a LoRA, not a model"):
        load_model(lora)


# --- devices and dtypes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "one of cuda, mps, cpu, got 'gpu'"),
        ({"device": "meta"}, "one of cuda, mps, cpu, got 'meta'"),
        ({"device": "cuda:99"}, "not available on this machine; available: .*cpu"),
        ({"dtype": "fp8"}, "one of fp16, bf16, fp32, fp64, got 'fp8'"),
        ({"dtype": torch.int64}, "got torch.int64"),
    ],
)
def test_wrong_devices_and_dtypes_are_found_before_loading(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_model("/no/such/model", **options)


def test_defaults_follow_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_dtype(None, torch.device("cpu")) == torch.float32
    assert resolve_dtype(None, torch.device("cuda")) == resolve_dtype(None, torch.device("mps")) == torch.float16
    assert resolve_dtype("torch.bfloat16") == resolve_dtype("BF16") == resolve_dtype(torch.bfloat16) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device() == torch.device("mps")
    with pytest.raises(UsageError, match="fp64"):
        resolve_dtype("fp64", torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device() == torch.device("cuda")
    assert resolve_device("cpu") == torch.device("cpu")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".pth", ".pkl", ".CKPT"])
def test_pickles_are_refused_and_not_opened(tmp_path: Path, suffix: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "opened",))

    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Trap()))
    for name in (path, str(path), str(tmp_path / f"gone{suffix}")):
        with pytest.raises(ModelError, match=r"is a pickle.*convert it to safetensors"):
            load_model(name)
    assert not (tmp_path / "opened").exists()


def test_a_pickle_under_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps({"weight": list(range(1000))}))
    with pytest.raises(ModelError, match="is a pickle under another name"):
        load_model(tmp_path / "model.safetensors")


def _only_pickles(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")


def _without_key(part: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = next((folder / part).glob("*.safetensors"))
        edit_weights(file, lambda tensors: tensors.pop(min(key for key in tensors if "norm" in key)))

    return change


def _index(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _missing_shard(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors")
    names = {"a": "diffusion_pytorch_model-00001-of-00002.safetensors"}
    names["b"] = "diffusion_pytorch_model-00002-of-00002.safetensors"
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / UNET).unlink(), r"no weights for unet: expected unet/\*\.safetensors"),
        (_only_pickles, r"unet only as a pickle \(diffusion_pytorch_model\.bin\).*convert"),
        (
            lambda folder: shutil.rmtree(folder / "tokenizer"),
            "incomplete: tokenizer/ is missing",
        ),
        (lambda folder: (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-9]), "not a whole safetensors file"),
        (lambda folder: (folder / UNET).write_bytes(b""), "not a whole safetensors file"),
        (_missing_shard, "00002-of-00002.safetensors missing"),
        (_without_key("unet"), "some weights are missing"),
        (_without_key("text_encoder"), "some weights are missing"),
        (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "model_index.json is damaged"),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), r"unet/config\.json is damaged"),
        (
            _index(_class_name="KolorsPipeline"),
            "KolorsPipeline, which no adapter knows; supported are Stable Diffusion 1.x",
        ),
        (_index(_class_name=["pipeline", "Mine"]), "custom pipelines are not loaded"),
        (_index(unet=["my_unet", "UNet"]), "asks for its own code"),
    ],
)
def test_damaged_folders(copy: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(copy)
    with pytest.raises(ModelError, match=message):
        load_model(copy, device="cpu")


def test_folders_that_are_not_the_model(sd: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="give the folder above it"):
        load_model(sd / "unet")
    with pytest.raises(ModelError, match="give the folder that holds that file"):
        load_model(tmp_path)
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(ModelError, match=r"only pickled weights \(model\.ckpt\)"):
        load_model(tmp_path)
    shutil.copy(sd / UNET, tmp_path / "unet.safetensors")
    with pytest.raises(ModelError, match=r"to load a single file, give .*unet\.safetensors"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match=r"is a UNet alone \(of a diffusers folder\)"):
        load_model(tmp_path / "unet.safetensors")
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        load_model(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    "prefix", ["first_stage_model.decoder.conv_out", "cond_stage_model.transformer.text_model.final"]
)
def test_single_files_that_lack_weights(copy: Path, prefix: str) -> None:
    checkpoint = original_checkpoint(toy_sd_pipeline())
    save_file({k: v for k, v in checkpoint.items() if not k.startswith(prefix)}, copy / "toy.safetensors")
    with pytest.raises(ModelError, match=r"toy\.safetensors"):
        load_model(copy / "toy.safetensors", device="cpu")


def test_single_files_of_other_kinds(tmp_path: Path) -> None:
    network = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
    save_file(network, tmp_path / "network.safetensors")
    with pytest.raises(ModelError, match="lacks the text encoder"):
        load_model(tmp_path / "network.safetensors")
    save_file(network | {"cond_stage_model.model.ln_final.weight": torch.zeros(1)}, tmp_path / "sd2.safetensors")
    with pytest.raises(ModelError, match=r"Stable Diffusion 2\.x checkpoint.*beside it"):
        load_model(tmp_path / "sd2.safetensors")


def test_arguments_that_do_not_belong_together(sd: Path) -> None:
    with pytest.raises(UsageError, match="revision is for hub models"):
        load_model(sd, revision="main")
    with pytest.raises(UsageError, match="got int"):
        load_model(3)


def test_a_path_may_start_at_home(sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shutil.copytree(sd, tmp_path / "toy")
    assert load_model("~/toy", device="cpu").revision == load_model(sd, device="cpu").revision


def test_pipelines_that_no_adapter_serves() -> None:
    pipeline = toy_sdxl_pipeline()
    pipeline.text_encoder = None
    with pytest.raises(ModelError, match="mine lacks text_encoder"):
        adapter_for(pipeline, name="mine", revision="none")
    with pytest.raises(ModelError, match="is a Foreign, which no adapter knows"):
        adapter_for(type("Foreign", (), {})(), name="mine", revision="none")
    pipeline = toy_sd_pipeline()
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(ModelError, match="takes 9 channels, not 4"):
        load_model(pipeline)


# --- nothing is said, nothing leaks ----------------------------------------------------------------------------------


def _settings() -> list[Any]:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    state: list[Any] = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    return state + [module.is_progress_bar_enabled() for module in (diffusers_logging, transformers_logging)]


def test_loading_is_silent_and_leaves_the_settings(
    sd: Path, copy: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("diffusers"), "level", logging.DEBUG)
    before = _settings()
    load_model(sd, device="cpu", dtype="fp16")
    assert _settings() == before
    (copy / "unet" / "config.json").write_text("{")
    with pytest.raises(ModelError):
        load_model(copy)
    assert _settings() == before
    assert capfd.readouterr() == ("", "")


def test_silence_keeps_what_was_said() -> None:
    logger = logging.getLogger("diffusers.something")
    with quiet() as messages:
        logger.warning("the %s", "warning")
    assert messages == ["the warning"]
