"""No file of a model folder runs, hangs, or is loaded unseen: what is loaded is what was checked."""

import json
import math
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sfumato.errors import ModelError
from sfumato.models.folder import check_folder
from sfumato.models.loading import load_model
from tests.toy import toy_sd_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
SHARDS = ("diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model-00002-of-00002.safetensors")


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# --- no code runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["None.py", "unet/diffusers.py", "tokenizer/transformers.py", "scheduler/diffusers.py", "vae/Model.PY"]
)
def test_python_files_of_a_folder_are_refused_and_do_not_run(copy: Path, tmp_path: Path, place: str) -> None:
    (copy / place).write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    with pytest.raises(ModelError, match=r"holds Python code .*no code that comes with a model is run"):
        load_model(copy, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_parts_of_unknown_classes_are_refused(copy: Path) -> None:
    change(copy / "model_index.json", unet=["transformers", "AutoModel"])
    with pytest.raises(ModelError, match="AutoModel as unet, which is not supported"):
        load_model(copy)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
        ("text_encoder/config.json", {"_attn_implementation_internal": "attacker/kernel"}),
        ("text_encoder/config.json", {"attn_implementation": "attacker/kernel"}),
        ("text_encoder/config.json", {"transformers_weights": "../../evil.safetensors"}),
        ("tokenizer/tokenizer_config.json", {"vocab_file": "../../vocab.json"}),
        ("tokenizer/tokenizer_config.json", {"fast_tokenizer_files": ["/etc/passwd"]}),
        ("unet/config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}),
    ],
)
def test_configurations_that_ask_for_more_are_refused(copy: Path, file: str, values: dict[str, Any]) -> None:
    change(copy / file, **values)
    with pytest.raises(ModelError, match=f"{file}.*{next(iter(values))}|quantised"):
        load_model(copy, device="cpu")


# --- what is loaded is what was checked ------------------------------------------------------------------------------


def sharded(folder: Path) -> Path:
    """Splits the UNet of `folder` into two shards, and gives their list."""
    tensors = load_file(folder / UNET)
    (folder / UNET).unlink()
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    names = {key: shard for shard, keys in zip(SHARDS, halves, strict=True) for key in keys}
    for shard, keys in zip(SHARDS, halves, strict=True):
        save_file({key: tensors[key] for key in keys}, folder / "unet" / shard, metadata={"format": "pt"})
    index = folder / f"{UNET}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


def test_shards_are_loaded_and_fingerprinted(copy: Path) -> None:
    sharded(copy)
    model = load_model(copy, device="cpu")
    expected = toy_sd_pipeline().unet.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.unet.state_dict().items())
    tensors = load_file(copy / "unet" / SHARDS[1])
    save_file({key: value * 2 for key, value in tensors.items()}, copy / "unet" / SHARDS[1], {"format": "pt"})
    assert check_folder(copy).fingerprint != model.revision


@pytest.mark.parametrize(
    "name", ["evil.bin", "../evil.safetensors", "/tmp/evil.safetensors", "..\\evil.safetensors", 5, None, [], ""]
)
def test_a_list_of_shards_names_plain_safetensors_files_only(copy: Path, tmp_path: Path, name: Any) -> None:
    index = sharded(copy)
    torch.save({}, copy / "unet" / "evil.bin")
    shutil.copy(copy / "unet" / SHARDS[0], copy / "evil.safetensors")
    shutil.copy(copy / "unet" / SHARDS[0], copy / UNET)  # a decoy, which a fingerprint could be taken of
    names = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": names | {min(names): name}}))
    with pytest.raises(ModelError, match=r"only safetensors files of its own folder|remove one of the two"):
        load_model(copy, device="cpu")
    (copy / UNET).unlink()
    with pytest.raises(ModelError, match="only safetensors files of its own folder"):
        load_model(copy, device="cpu")


def test_a_stray_list_of_pickled_shards_is_not_read(copy: Path) -> None:
    (copy / "unet" / "diffusion_pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "evil.bin"}}')
    assert load_model(copy, device="cpu").revision == check_folder(copy).fingerprint


def test_an_adapter_beside_the_text_encoder_is_not_read(copy: Path, sd: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "attacker/evil"}
    (copy / "text_encoder" / "adapter_config.json").write_text(json.dumps(adapter))
    assert load_model(copy, device="cpu").revision == load_model(sd, device="cpu").revision


def test_the_fingerprint_knows_the_vocabulary(copy: Path) -> None:
    before = check_folder(copy).fingerprint
    file = copy / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    assert check_folder(copy).fingerprint != before


# --- nothing hangs, nothing is built that the weights do not fill ----------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.parametrize(
    "file",
    ["model_index.json", "unet/config.json", UNET, "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"],
)
def test_pipes_are_refused_and_not_waited_for(copy: Path, file: str) -> None:
    (copy / file).unlink()
    os.mkfifo(copy / file)
    with pytest.raises(ModelError, match=f"{file} is no regular file"):
        load_model(copy)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="no regular file"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a": ' * 100_000, "[]", "3", "", "\x00", '{"a": ' + "9" * 9999 + "}"]
)
def test_damaged_configurations_end_in_one_line(copy: Path, content: str) -> None:
    (copy / "unet" / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"unet/config\.json is damaged"):
        load_model(copy)


def test_endless_configurations_are_not_read(copy: Path) -> None:
    with (copy / "unet" / "config.json").open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(ModelError, match=r"config\.json has 17179869184 bytes, where at most"):
        load_model(copy)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("text_encoder/config.json", {"num_hidden_layers": 1_000_000}),
        ("text_encoder/config.json", {"vocab_size": 10**9}),
        ("text_encoder/config.json", {"hidden_size": 10**400}),
        ("text_encoder/config.json", {"intermediate_size": float("inf")}),
        ("unet/config.json", {"layers_per_block": 5_000}),
        ("unet/config.json", {"transformer_layers_per_block": [1, 1, 90_000]}),
        ("unet/config.json", {"cross_attention_dim": 10**7}),
        ("vae/config.json", {"block_out_channels": [8] * 5_000}),
    ],
)
def test_networks_larger_than_their_weights_are_not_built(copy: Path, file: str, values: dict[str, Any]) -> None:
    change(copy / file, **values)
    with pytest.raises(ModelError, match=rf"{file} describes a larger network"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("unet/config.json", {"sample_size": [10**6, 64]}),
        ("unet/config.json", {"sample_size": "x"}),
        ("vae/config.json", {"scaling_factor": float("nan")}),
        ("vae/config.json", {"scaling_factor": 0}),
        ("vae/config.json", {"shift_factor": "x"}),
        ("vae/config.json", {"latents_mean": {"a": 1}}),
        ("text_encoder/config.json", {"eos_token_id": []}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": [[]]}),
        ("model_index.json", {"force_zeros_for_empty_prompt": []}),
        ("vae/config.json", {"norm_num_groups": True}),
        ("unet/config.json", {"norm_eps": ""}),
        ("unet/config.json", {"flip_sin_to_cos": "yes"}),
        ("unet/config.json", {"down_block_types": "DownBlock2D"}),
        ("unet/config.json", {"attention_head_dim": [4, "4"]}),
    ],
)
def test_values_of_a_configuration_are_checked(copy: Path, file: str, values: dict[str, Any]) -> None:
    change(copy / file, **values)
    with pytest.raises(ModelError, match=rf"{file}: {next(iter(values))} must be"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("text_encoder/config.json", {"projection_dim": ""}),
        ("text_encoder/config.json", {"hidden_act": [1]}),
        ("text_encoder/config.json", {"dtype": [1]}),
        ("unet/config.json", {"norm_num_groups": 0}),
        ("unet/config.json", {"down_block_types": ["Other"]}),
        ("vae/config.json", {"act_fn": "other"}),
    ],
)
def test_what_the_libraries_raise_is_told_in_one_line(copy: Path, file: str, values: dict[str, Any]) -> None:
    change(copy / file, **values)
    with pytest.raises(ModelError, match=r"^cannot load [^\n]*/copy: [^\n]*$"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize(
    "values", [{"image_encoder": ""}, {"safety_checker": []}, {"mine": ["x"]}, {"other": {"a": 1}}]
)
def test_odd_entries_of_the_index_are_passed_over(copy: Path, values: dict[str, Any]) -> None:
    change(copy / "model_index.json", **values)
    load_model(copy, device="cpu")


@pytest.mark.parametrize("value", [[], None, "x", ["transformers", None]])
def test_a_folder_that_lacks_a_part_is_refused_by_name(copy: Path, value: Any) -> None:
    change(copy / "model_index.json", tokenizer=value)
    with pytest.raises(ModelError, match="copy lacks tokenizer"):
        load_model(copy, device="cpu")


def test_a_network_that_does_not_say_its_size_takes_the_usual_one(copy: Path) -> None:
    change(copy / "unet" / "config.json", sample_size=None)
    assert load_model(copy, device="cpu").sample_size == (512, 512)


def test_weights_that_no_machine_holds_are_not_read(copy: Path) -> None:
    with safe_open(copy / UNET, "pt") as file:
        names = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
    key, end, header = min(names), 0, {}
    for name, shape in names.items():
        sides = [1 << 20, 1 << 20] if name == key else shape
        begin, end = end, end + 4 * math.prod(sides)
        header[name] = {"dtype": "F32", "shape": sides, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (copy / UNET).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        try:
            file.truncate(8 + len(text) + end)  # a hole of 4 TiB, of which nothing lies on the disk
        except OSError:
            pytest.skip("no files of that size on this system")
    with pytest.raises(ModelError, match=r"copy needs 4\d{3} GB of memory, and this machine has \d+ GB"):
        load_model(copy, device="cpu")


def test_weights_are_floats(copy: Path) -> None:
    tensors = load_file(copy / UNET)
    key = min(tensors)
    save_file(tensors | {key: tensors[key].to(torch.int32)}, copy / UNET, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"holds {key} as I32, where weights are floats"):
        load_model(copy, device="cpu")


# --- tokenizers ------------------------------------------------------------------------------------------------------


def _as_two_files(tokenizer: Path) -> None:
    """Leaves vocab.json and merges.txt, the older layout."""
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


def _only_config(tokenizer: Path) -> None:
    (tokenizer / "tokenizer.json").unlink()


def _without_merges(tokenizer: Path) -> None:
    _as_two_files(tokenizer)
    (tokenizer / "merges.txt").unlink()


@pytest.mark.parametrize("damage", [_only_config, _without_merges])
def test_a_tokenizer_without_its_vocabulary_is_refused(copy: Path, damage: Callable[[Path], None]) -> None:
    damage(copy / "tokenizer")
    with pytest.raises(ModelError, match=r"incomplete: tokenizer/ has no vocabulary .*get the model again"):
        load_model(copy, device="cpu")


def _cut_merges(tokenizer: Path) -> None:
    _as_two_files(tokenizer)
    merges = (tokenizer / "merges.txt").read_bytes()
    (tokenizer / "merges.txt").write_bytes(merges[: len(merges) // 2])


def _empty_vocabulary(tokenizer: Path) -> None:
    _as_two_files(tokenizer)
    (tokenizer / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')


def _cut_tokenizer(tokenizer: Path) -> None:
    content = (tokenizer / "tokenizer.json").read_bytes()
    (tokenizer / "tokenizer.json").write_bytes(content[: len(content) // 2])


def _few_merges(tokenizer: Path) -> None:
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:5]
    (tokenizer / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize("damage", [_cut_merges, _empty_vocabulary, _cut_tokenizer, _few_merges])
def test_half_a_vocabulary_is_refused(copy: Path, damage: Callable[[Path], None]) -> None:
    damage(copy / "tokenizer")
    with pytest.raises(
        ModelError, match=r"tokenizer/\w+\.json (and its merges are not whole|is damaged).*get the model|save"
    ):
        load_model(copy, device="cpu")


def test_a_vocabulary_in_two_files_gives_the_same_tokens(sd: Path, copy: Path) -> None:
    _as_two_files(copy / "tokenizer")
    first, second = (load_model(folder, device="cpu").text for folder in (sd, copy))
    assert first.ids("a photo of a cat, unheard-of") == second.ids("a photo of a cat, unheard-of")
