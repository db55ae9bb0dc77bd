"""`sfumato batch`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.apps import batch_watch as watch
from sfumato.apps.console import FAILED, note, print_json, stdout, table, working
from sfumato.apps.loading import parts
from sfumato.apps.options import (
    AsJson,
    ClipSkip,
    Compile,
    Device,
    Dtype,
    Embedding,
    Fit,
    Guidance,
    InversionSettings,
    Lora,
    MethodSettings,
    ModelName,
    Offload,
    Revision,
    Size,
    Steps,
    Vae,
    Variant,
)
from sfumato.apps.stopping import Asked, finishing
from sfumato.apps.values import given, parse_inversion_options, parse_options, parse_size
from sfumato.errors import UsageError
from sfumato.files import at_home

if TYPE_CHECKING:
    from sfumato.api.batch import Batch, Hire

MOST_PLACES = 10_000
"""More than a Ray cluster has, which says itself how many these are."""


def batch(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MANIFEST|FOLDER|GLOB",
            help="A .csv, .jsonl, .yaml or .parquet file, a row an edit (-: JSON lines from stdin); or images.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the results; a batch in it is continued.")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", "-s", help="Source prompt of rows that have none.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Target prompt of rows that have none; repeatable, an image for each."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Method of rows that name none; see: sfumato methods.", show_default="what suits the model"),
    ] = None,
    inversion: Annotated[
        str | None, typer.Option(help="Inversion of rows that name none.", show_default="the method's first choice")
    ] = None,
    settings: MethodSettings = None,
    inversion_settings: InversionSettings = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt of rows that have none.")] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    source_guidance: Annotated[
        float | None, typer.Option(help="Guidance scale of the source branch.", show_default="the inversion's")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of rows that have none.", show_default="0")] = None,
    size: Size = None,
    fit: Fit = None,
    encode_steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Optimisation steps that bring the autoencoder's reconstruction closer to the image.",
            show_default="0, off; of morphs 20",
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            help="File name of each image; may contain {stem}, {id}, {index}, {target}, {method}, {seed}, {key}."
        ),
    ] = "{stem}-{target}.png",
    movie: Annotated[str, typer.Option(help="Ending of morphs: .webp, .mp4, .webm, .mov, .gif or .apng.")] = ".webp",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also search folders inside the folders.")
    ] = False,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Let a manifest name files outside its folder, and networks.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Largest number of items; the first ones are taken.", show_default="all")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Do the K-th of N parts, on one of N machines, each with its own --out."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of processes, each with the model; several have one thread each.",
            show_default="1; with --ray as many as have room",
        ),
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="all|N,N", help="GPUs to use, a process on each.", show_default="one GPU")
    ] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Run again the items that failed earlier.")
    ] = False,
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many errors.", show_default="never")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|HOST:PORT", help="Ray cluster to work on, a process on each GPU, or else each core."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what would be done, and how long and how large it would be; write nothing."
        ),
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Write report.html, the worst edits first.")] = False,
    status: Annotated[Path | None, typer.Option(help="Show the progress of the batch in this folder.")] = None,
    model: ModelName = None,
    device: Device = None,
    dtype: Dtype = None,
    compile_: Compile = False,
    offload: Offload = None,
    revision: Revision = None,
    variant: Variant = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    clip_skip: ClipSkip = None,
    as_json: AsJson = False,
) -> None:
    """Edit or morph thousands of images, each exactly once. A batch that was stopped or killed can be continued.

    Example: sfumato batch edits.csv --out results --workers 2
    """
    if status is not None:
        watch.show_status(status, as_json)
        return
    if not inputs or out is None:
        lacks = "--out FOLDER" if inputs else "a manifest, a folder or images"
        raise UsageError(f"give {lacks}, such as sfumato batch edits.csv --out results")
    out = at_home(out)
    with working("starting"):
        from sfumato.api.batch import Options, run_batch
        from sfumato.api.batch_inputs import read_inputs
        from sfumato.api.batch_items import Settings
        from sfumato.api.batch_layout import check_settings

    defaults = given(
        source_prompt=source, target_prompt=target or None, method=method, inversion=inversion,
        negative_prompt=negative, num_inference_steps=steps, guidance_scale=guidance,
        source_guidance_scale=source_guidance, seed=seed, size=parse_size(size),
        fit=None if fit is None else fit.value, encode_steps=encode_steps,
    )  # fmt: skip
    if seed == -1:
        raise UsageError("--seed -1 is another one each time, so that a batch could not go on: give a number")
    rows = read_inputs(inputs, out, recursive=recursive)
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "revision": revision, "variant": variant}
    loading |= {"compile": True} if compile_ else {}  # as it was without, so that a batch of before goes on
    loading |= {"offload": offload.value} if offload else {}
    shared = Settings(
        {"name": model or "emoji", **loading, **parts(lora, embedding, vae, clip_skip)},
        rows.folder, allow_outside or not rows.manifest, name, movie,
    )  # fmt: skip
    check_settings(shared)
    defaults |= _method_options(method or shared.usual_method, settings, inversion, inversion_settings)
    if ray is not None and gpus is not None:
        raise UsageError("--ray puts a worker on each GPU of the cluster: leave out --gpus")
    if ray is not None:
        from sfumato.run.ray_crew import check_cluster

        check_cluster(ray)
    environments = _gpus(gpus)
    count = workers or len(environments) or (MOST_PLACES if ray else 1)
    options = Options(
        limit, _shard(shard), count, 1 if count > 1 and not environments else None, environments, retry_errors,
        stop_after,
    )  # fmt: skip
    if dry_run:
        from sfumato.api.batch_estimate import estimate

        with working("measuring one item of each kind"):
            found = estimate(rows.lines, defaults, shared, out, options)
        watch.show_estimate(found, as_json)
        return
    with finishing() as asked, watch.progress(out) as tick:
        done = run_batch(
            rows.lines, defaults, shared, out, options, hire=_on_ray(ray),
            stopping=lambda: asked.number is not None, tick=tick,
        )  # fmt: skip
    page = _report(done, out) if report else None
    _end(done, out, page, asked, as_json)


def _method_options(
    method: str, settings: list[str] | None, inversion: str | None, inversion_settings: list[str] | None
) -> dict[str, Any]:
    """Options of all rows, checked."""
    from sfumato.edits.method import METHODS

    of_inversion = parse_inversion_options(inversion_settings, inversion, method)
    return {
        **({"options": parse_options(METHODS[method], settings)} if settings else {}),
        **({"inversion_options": of_inversion} if of_inversion else {}),
    }


def _on_ray(address: str | None) -> Hire | None:
    """Makes the workers of a batch actors of a cluster; None: processes of this machine."""
    if address is None:
        return None
    from sfumato.run.ray_crew import RayCrew

    return lambda begin: RayCrew(begin, address)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    part, _, count = text.partition("/")
    if not (part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count) <= 10_000):
        raise UsageError(f"--shard must be K/N, such as 1/4, with K from 1 to N, got {text!r}")
    return int(part), int(count)


def _gpus(text: str | None) -> Sequence[Mapping[str, str]]:
    """The environment of a worker on each GPU."""
    if text is None:
        return ()
    import torch

    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    there = visible or [str(number) for number in range(torch.cuda.device_count())]
    if not torch.cuda.is_available() or not there:
        raise UsageError("--gpus: no CUDA device is there; leave it out, and give --workers")
    if text == "all":
        chosen = there
    else:
        numbers = text.split(",")
        if not all(number.isdecimal() and int(number) < len(there) for number in numbers):
            raise UsageError(f"--gpus must be all, or numbers below {len(there)} such as 0,1, got {text!r}")
        chosen = [there[int(number)] for number in numbers]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in chosen]


def _report(done: Batch, out: Path) -> Path:
    from sfumato.bench.benchmark import Measure
    from sfumato.bench.report import write_report

    measures = [
        Measure("reconstruction_psnr", "reconstruction PSNR, dB", "higher", "Against the source image.", "keep"),
        Measure("evaluations", "evaluations", "lower", "Rows through the network for one image.", "", 0),
        Measure("took", "seconds", "lower", "Of the worker, for one image."),
    ]
    rows = done.report_rows()
    about = "Every edit of the batch, the worst reconstruction first. Figures are of the worker."
    return write_report(
        out, out / "report.html", rows, measures, done.settings, title=f"Batch {out.name}", about=about, find=done.find
    )


def _end(done: Batch, out: Path, page: Path | None, asked: Asked, as_json: bool) -> None:
    """Says what was done, and leaves with the exit code that says it, too."""
    progress = done.progress
    if done.gone:
        note(f"{done.gone} rows in {out} are of items that the manifest no longer has; they are kept")
    if as_json:
        report = {} if page is None else {"report": str(page)}
        print_json({"command": "batch", "out": str(out), **progress.to_json(), **report})
    else:
        nothing = "nothing to do: " if progress.before == progress.items else ""
        made = f"{nothing}{progress.done} of {progress.items} done, {progress.failed} failed, {progress.left} left"
        lines = [("batch", made), ("images", str(out / "images")), ("rows", str(out / "rows.jsonl"))]
        table(lines + ([] if page is None else [("report", str(page))]), to=stdout())
    if progress.failed:
        note(f"{progress.failed} items failed; rows.jsonl says why, and --retry-errors tries them again")
    if progress.left and asked.number is not None:
        raise typer.Exit(128 + asked.number)
    if progress.failed or progress.left:
        raise typer.Exit(FAILED)
