"""Routes and results, on a real server with a toy model."""

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.api.recipe import FILES, NETWORKS
from sfumato.images import png_bytes, recipe_in
from sfumato.run.job_queue import Bounds
from tests.apps.web.serving import Client, serving

EDIT = {"command": "edit", "source_prompt": "a cat", "target_prompts": ["a dog"], "num_inference_steps": 3}


def picture(seed: int = 0, size: tuple[int, int] = (128, 128)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def client(toy_model: Any) -> Iterator[Client]:
    with serving(toy_model, bounds=Bounds(patience=20)) as client:
        yield client


def test_an_edit_is_that_of_the_library_and_its_file_has_the_recipe(client: Client, toy_model: Any) -> None:
    image = picture()
    upload = client.send(image)
    run = client.run(EDIT, image=upload["id"])
    assert run["state"] == "done", run
    alone = sfumato.edit(toy_model, image, source_prompt="a cat", target_prompt="a dog", num_inference_steps=3)
    reply = client.file(run, "image-0.png")
    assert (reply.status, reply.headers["content-type"]) == (200, "image/png")
    assert reply.image.tobytes() == alone.image.tobytes()
    recipe = recipe_in(reply.body, "it")
    assert recipe == {**alone.recipe, "image": {**alone.recipe["image"], "path": "cat.png"}, "model": "toy"}
    assert client.file(run, "reconstruction.png").image.tobytes() == alone.reconstruction.tobytes()
    assert run["result"]["reconstruction_psnr"] == pytest.approx(alone.reconstruction_psnr)
    assert "dB" in run["result"]["reconstruction"]


def test_the_file_is_that_of_the_library_byte_for_byte(
    client: Client, toy_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("cat.png")
    run = client.run(EDIT, image=client.send(Path("cat.png").read_bytes())["id"])
    made: dict[str, Any] = {}
    python = run["result"]["python"].replace("model = sfumato.load_model('toy')\n", "")
    exec(python, {"sfumato": sfumato, "model": toy_model}, made)
    assert Path("result.png").read_bytes() == client.file(run, "image-0.png").body


def test_the_attention_to_each_word_is_there(client: Client) -> None:
    run = client.run(EDIT, image=client.send(picture())["id"])
    assert run["result"]["words"] == [["a", "cat"], ["a", "dog"]]
    heat = np.asarray(client.file(run, "heat-1-1.png").image)
    assert (heat.shape[2], heat.max()) == (3, 255)


def test_a_preview_asked_for_while_a_run_ends_is_no_error(client: Client) -> None:
    run = client.run(EDIT, image=client.send(picture())["id"])
    assert client.file(run, "preview.jpg").status == 204
    assert client.file(run, "preview.png").status == 404


def test_a_painted_mask_is_honoured_bit_for_bit_outside(client: Client) -> None:
    image, mask = picture(), np.zeros((128, 128), dtype=np.uint8)
    mask[:, 64:] = 255
    ids = {"image": client.send(image)["id"], "mask": client.send(Image.fromarray(mask), "mask.png")["id"]}
    run = client.run({**EDIT, "mask": {"pixels": True}}, **ids)
    edited = np.asarray(client.file(run, "image-0.png").image)
    assert (edited[:, :64] == np.asarray(image)[:, :64]).all()
    assert (edited[:, 64:] != np.asarray(image)[:, 64:]).any()
    assert run["result"]["recipe"]["mask"]["path"] == "mask.png"
    assert "--mask mask.png --mask-pixels" in run["result"]["command"]


def test_words_give_a_heat_map_before_any_edit(client: Client) -> None:
    asked = {"command": "words", "source_prompt": "a cat", "words": ["cat"]}
    run = client.run(asked, image=client.send(picture())["id"])
    assert run["state"] == "done", run
    heat = np.asarray(client.file(run, "heat.png").image)
    assert (heat.shape, heat.min(), heat.max()) == ((16, 16, 3), 0, 255)
    assert client.run({**asked, "words": ["dog"]}, image=client.send(picture())["id"])["state"] == "failed"


def test_an_edit_without_an_image_is_of_one_that_the_model_draws(client: Client) -> None:
    run = client.run(EDIT)
    assert run["result"]["reconstruction"].startswith("The source was drawn")


def test_a_second_edit_of_an_image_is_not_inverted_again(client: Client) -> None:
    upload = client.send(picture(9))["id"]
    first, second = (client.run({**EDIT, "target_prompts": [target]}, image=upload) for target in ("a dog", "a hat"))
    assert second["result"]["cost"]["evaluations"] < first["result"]["cost"]["evaluations"]


def test_auto_shows_all_that_it_tried(client: Client) -> None:
    run = client.run({**EDIT, "method": "auto", "options": {"tries": 2}}, image=client.send(picture())["id"])
    tried = run["result"]["tried"]
    assert len(tried) == 2
    assert sum(one["chosen"] for one in tried) == 1
    assert client.file(run, "tried-1.png").image.size == (128, 128)


def test_a_morph_has_frames_a_movie_and_its_steps(client: Client) -> None:
    ids = [client.send(picture(k), f"{k}.png")["id"] for k in range(3)]
    asked = {"command": "morph", "method": "crossfade", "num_frames": 3, "spacing": "even", "encode_steps": 0}
    run = client.run(asked, images=ids)
    assert run["state"] == "done", run
    assert (run["result"]["frames"], len(run["result"]["distances"])) == (5, 4)
    assert client.file(run, "frame-4.png").image.tobytes() == picture(2).tobytes()
    assert client.file(run, "movie.gif").image.n_frames == 5
    assert [image["path"] for image in run["result"]["recipe"]["images"]] == ["0.png", "1.png", "2.png"]
    assert "sfumato morph 0.png 1.png 2.png" in run["result"]["command"]


def test_a_slider_goes_from_the_source_to_the_edit(client: Client) -> None:
    upload = client.send(picture())["id"]
    asked = {**EDIT, "command": "slider", "num_frames": 3, "spacing": "even"}
    run, edit = client.run(asked, image=upload), client.run(EDIT, image=upload)
    assert run["result"]["frames"] == 3
    assert client.file(run, "frame-2.png").image.tobytes() == client.file(edit, "image-0.png").image.tobytes()


def test_progress_comes_as_events(client: Client) -> None:
    started = client.post("/api/runs", {"request": {**EDIT, "num_inference_steps": 20}}).json
    told = client.get(f"/api/runs/{started['id']}/events")
    assert told.headers["content-type"].startswith("text/event-stream")
    news = [json.loads(line) for line in re.findall(rb"^data: (.*)$", told.body, re.MULTILINE)]
    assert news[-1]["state"] == "done"
    assert "result" in news[-1]
    assert {one["state"] for one in news} >= {"running", "done"}
    assert re.search(rb"^id: \d+\.\d+$", told.body, re.MULTILINE)


def test_a_run_is_cancelled(client: Client) -> None:
    started = client.post("/api/runs", {"request": {**EDIT, "num_inference_steps": 200}}).json
    path = f"/api/runs/{started['id']}"
    assert client.ask("DELETE", path).json == {"cancelled": True}
    end = time.monotonic() + 20
    while (news := client.get(path).json)["state"] in ("running", "waiting") and time.monotonic() < end:
        time.sleep(0.02)
    assert news["state"] == "cancelled"
    assert client.ask("DELETE", path).json == {"cancelled": False}


def test_an_upload_says_what_made_it(client: Client) -> None:
    run = client.run({**EDIT, "seed": 5}, image=client.send(picture(), "../private/cat.png")["id"])
    upload = client.send(client.file(run, "image-0.png").body, "result.png")
    assert upload["recipe"]["seed"] == 5
    assert upload["recipe"]["image"]["path"] == "cat.png"
    assert client.send(picture())["recipe"] is None
    assert client.get(f"/api/images/{upload['id']}.png").image.size == (128, 128)


def test_the_library_tells_all_that_the_page_shows(client: Client) -> None:
    told = client.get("/api/library").json
    assert {entry["name"] for entry in told["methods"]} == set(sfumato.METHODS)
    p2p = next(entry for entry in told["methods"] if entry["name"] == "prompt-to-prompt")
    assert {"help", "default", "low", "high", "choices", "type"} <= p2p["options"][0].keys()
    assert told["models"][0]["size"] == [128, 128]
    for name in ("seed", "guidance_scale", "num_inference_steps", "mask_feather", "negative_prompt", "num_frames"):
        assert told["help"][name]
    assert len(told["compare"]) >= 4
    assert set(told["compare"]) <= set(sfumato.METHODS) - {"auto"}
    for example in told["examples"]:
        assert client.get(f"/api/images/{example['id']}.png").status == 200
        assert example["prompt"] not in example["targets"]


def test_a_busy_server_says_when_to_come_back_and_loses_nothing(toy_model: Any) -> None:
    with serving(toy_model, bounds=Bounds(waiting=5, per_client=1000)) as client:
        statuses: list[int] = []
        done: dict[int, Any] = {}

        def one(seed: int) -> None:
            while True:
                reply = client.post("/api/runs", {"request": {**EDIT, "num_inference_steps": 1, "seed": seed}})
                statuses.append(reply.status)
                if reply.status == 202:
                    break
                assert reply.status == 503
                assert int(reply.headers["retry-after"]) >= 1
                time.sleep(0.05)
            path = f"/api/runs/{reply.json['id']}"
            while (news := client.get(path).json)["state"] in ("waiting", "running"):
                time.sleep(0.05)
            done[seed] = news["result"]["recipe"]["seed"]

        threads = [threading.Thread(target=one, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == {seed: seed for seed in range(12)}
        assert statuses.count(202) == 12


def test_options_that_open_files_or_networks_are_known() -> None:
    """A new option of free text must be looked at: the page must not let it open a file or a network."""
    from sfumato.inversions.method import INVERSIONS
    from sfumato.morphs.method import MORPHS
    from sfumato.morphs.spacings.base import SPACINGS

    entries = [*sfumato.METHODS.values(), *INVERSIONS.values(), *MORPHS.values(), *SPACINGS.values()]
    texts = {
        option.name
        for entry in entries
        for option in entry.parameters.values()
        if {"text", "file", "Direction"} & set(option.type_name.split(" or ")) or "str" in str(option.type)
    }
    words = {"blend_words", "blend_subtract_words", "foreground_words", "common_prompt", "guide_prompt", "placeholder"}
    ranges = {"weights", "cross_replace_steps", "concepts", "better", "worse"}
    energies = {"energy", "experts"}  # by name: text-agreement, ...; none of a file
    assert texts <= words | ranges | energies | FILES | set(NETWORKS), texts


def test_the_page_and_its_files_are_small_and_known(client: Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    again = client.get("/", if_none_match=page.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    sizes = {name: len(data) for name, data in client.server._static.items()}
    assert sum(sizes.values()) <= 150_000, sizes


def test_bytes_of_a_png_go_through_the_reader(client: Client) -> None:
    upload = client.send(png_bytes(picture().convert("L")), "grey.png")
    assert upload["size"] == [128, 128]


def test_the_library_says_what_a_model_does_not_serve(client: Client) -> None:
    told = client.get("/api/library").json
    lacks = told["models"][0]["lacks"]
    assert "rectified flow" in lacks["methods"]["rf-inversion"]
    assert "prompt-to-prompt" not in lacks["methods"]
    assert lacks["morphs"] == {}
