"""Inversions on disk: round trip, damage, foreign files, and runs that they do not fit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato.errors import InversionError
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.inversions.together import together
from sfumato.models.rectified_flow import DynamicShift, RectifiedFlow
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.tensorfile import content_key
from tests.gaussian import GaussianModel


def example() -> Inversion:
    return Inversion(
        method="ddim",
        noise=torch.randn(1, 4, 8, 8),
        timesteps=(601, 301, 1),
        trajectory=torch.randn(4, 1, 4, 8, 8),
        prompt="a cat “quoted”",
        model_revision="rev",
        key="abc",
    )


def test_round_trip(tmp_path: Path) -> None:
    before = example()
    after = Inversion.load(before.save(tmp_path / "cat.safetensors"))
    assert torch.equal(after.noise, before.noise)
    assert after.trajectory is not None
    assert before.trajectory is not None
    assert torch.equal(after.trajectory, before.trajectory)
    assert (after.timesteps, after.prompt, after.model_revision, after.key, after.noise_maps) == (
        before.timesteps, before.prompt, "rev", "abc", None,
    )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["cat.safetensors"]  # nothing left beside it


def test_files_keep_the_names_of_their_first_format(tmp_path: Path) -> None:
    """So that files written by 0.1 are read, and the fingerprints in its recipes still hold."""
    noise = torch.arange(4.0).view(1, 1, 2, 2)
    plain = {
        "method": "ddim", "timesteps": [601, 301, 1], "gamma": 0.0, "pinned": False, "eta": 0.0, "prompt": "a cat",
        "negative_prompt": "", "guidance_scale": 1.0, "seed": None, "model": "rev", "picture": "digest", "key": "",
        "start_index": 0,
    }  # fmt: skip
    content = "cfc69ed14f4f4c2b85118559cb7b02bdf10f9eb5cfa1661c8d55d7efbc73744f"
    metadata = {"content": content, "fields": json.dumps(plain), "format": "sfumato-inversion-1"}
    save_file({"noise": noise}, tmp_path / "old.safetensors", metadata=metadata)
    old = Inversion.load(tmp_path / "old.safetensors")
    assert (old.model_revision, old.image_sha256) == ("rev", "digest")
    new = Inversion("ddim", noise, (601, 301, 1), prompt="a cat", model_revision="rev", image_sha256="digest")
    assert new.fingerprint == old.fingerprint == content
    assert Inversion.load(new.save(tmp_path / "new.safetensors")).fingerprint == content


def test_an_extra_of_the_empty_prompt_keeps_its_name_in_files(tmp_path: Path) -> None:
    """The fingerprint is what 0.1 gave, whose only such tensor was `null_pooled_embeds`."""
    fingerprint = "0894f1588f5cc7924afec6087f36ce6a2cd501b2b32ebfb966faac8805c9a298"
    before = Inversion(
        "negative-prompt", torch.arange(4.0).view(1, 1, 2, 2), (601, 301, 1), null_embeds=torch.ones(3, 1, 2, 2),
        null_extras={"pooled": torch.arange(3.0)[None]},
    )  # fmt: skip
    path = before.save(tmp_path / "cat.safetensors")
    assert "null_pooled_embeds" in load_file(path)
    after = Inversion.load(path)
    assert after.fingerprint == before.fingerprint == before.to("cpu").fingerprint == fingerprint
    assert torch.equal(after.null_extras["pooled"], before.null_extras["pooled"])
    assert torch.equal(together([after, before]).null_extras["pooled"], torch.arange(3.0).expand(2, 3))


def test_latents_by_the_index_of_a_step() -> None:
    inversion = example()
    assert inversion.trajectory is not None
    assert torch.equal(inversion.latents_at(0), inversion.trajectory[3])
    assert torch.equal(inversion.latents_at(2), inversion.trajectory[1])
    assert torch.equal(inversion.latents_at(3), inversion.trajectory[0])
    for index in (-1, 4):
        assert not inversion.holds(index)
        with pytest.raises(InversionError, match=rf"no latents before step {index + 1} of 3"):
            inversion.latents_at(index)


def test_latents_on_a_part_of_its_grid() -> None:
    whole = example()
    part = whole.on_grid((601, 1))
    assert part.timesteps == (601, 1)
    assert [torch.equal(part.latents_at(k), whole.latents_at(index)) for k, index in enumerate((0, 2, 3))] == [True] * 3
    with pytest.raises(InversionError, match=r"no latents at timestep 500; .* its own grid of 3 steps"):
        whole.on_grid((601, 500))


def test_times_of_a_flow_are_kept_as_they_are(tmp_path: Path) -> None:
    """Its times are no whole numbers and depend on the size of the image; a coarser run finds its own among them."""
    model = GaussianModel(RectifiedFlow(dynamic=DynamicShift()))
    size, condition = (12, 20), model.encode_prompt("a cat")
    clean = torch.randn(1, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = ddim_inversion(InversionTask(model, clean, condition, num_inference_steps=6))
    inversion = Inversion.load(made.save(tmp_path / "flow.safetensors"))
    assert inversion.timesteps == made.timesteps == tuple(model.schedule.timesteps(6, latent_size=size))
    assert any(time != int(time) for time in inversion.timesteps)
    inversion.check(model_revision=model.revision, timesteps=made.timesteps)
    other = tuple(model.schedule.timesteps(6, latent_size=(24, 20)))
    with pytest.raises(InversionError, match="has 6 steps"):
        inversion.check(model_revision=model.revision, timesteps=other)
    pinned = replace(inversion, pinned=True)
    back = sample(model, pinned.noise, {"source": Branch(condition)}, timesteps=pinned.timesteps, replay=pinned)
    assert torch.equal(back[0], clean)
    coarse = inversion.on_grid(model.schedule.timesteps(3, latent_size=size))
    assert torch.equal(coarse.latents_at(1), inversion.latents_at(2))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = example().save(tmp_path / "cat.safetensors")
    whole = path.read_bytes()
    for damaged in (whole[:-5], whole[:40], b"", b"no tensors here", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(InversionError, match="damaged"):
            Inversion.load(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    save_file({"noise": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InversionError, match="no sfumato inversion"):
        Inversion.load(tmp_path / "foreign.safetensors")
    with pytest.raises(InversionError, match="no inversion at"):
        Inversion.load(tmp_path / "missing.safetensors")
    path = example().save(tmp_path / "cat.safetensors")
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata=metadata | {"fields": json.dumps({"method": "ddim"})})
    with pytest.raises(InversionError, match="damaged"):
        Inversion.load(path)


def test_bad_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InversionError, match=r"\.safetensors"):
        example().save(tmp_path / "cat.bin")
    with pytest.raises(InversionError, match="does not exist"):
        example().save(tmp_path / "missing" / "cat.safetensors")


def test_runs_that_do_not_fit_are_refused() -> None:
    inversion = example()
    inversion.check(model_revision="rev", timesteps=(601, 301, 1))
    with pytest.raises(InversionError, match="made with model rev, not other"):
        inversion.check(model_revision="other", timesteps=(601, 301, 1))
    with pytest.raises(InversionError, match="num_inference_steps=3"):
        inversion.check(model_revision="rev", timesteps=(501, 1))


def test_content_key_depends_on_all_of_it() -> None:
    keys = {
        content_key(b"image", "model", {"steps": 50}),
        content_key(b"other", "model", {"steps": 50}),
        content_key(b"image", "other", {"steps": 50}),
        content_key(b"image", "model", {"steps": 51}),
    }
    assert len(keys) == 4
    assert content_key(b"image", "model", {"a": 1, "b": 2}) == content_key(b"image", "model", {"b": 2, "a": 1})
