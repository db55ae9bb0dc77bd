"""Distill: edits of scenes, distilled, beside their teacher and beside students of the exact answers.

Three edits are distilled: a swap of one concept for another, a recolour, a change of style. For each, scenes are drawn
and edited by the teacher, a student is trained on these pairs, and another one, with as many pairs and steps, on the
exact answers: what both do wrong is the student's fault, what the first alone does wrong is the teacher's. Measured are
other scenes, drawn by another seed. The perceptual distance is one that students are trained by, on their teacher's
results; the judge is not. PSNR rewards blur.

`make` trains the students, in the folder `students` of the run; a run that is stopped goes on. Or a distilled edit that
is there already is measured (`student`), beside the teacher that its card names: of a swap, the one that its prompts
name. `bars` says what is asked for of each edit, and whether it is met.
"""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch

import sfumato
from sfumato.adaptation.store import Store
from sfumato.api.distill import finished
from sfumato.api.recipe import FILES, NETWORKS
from sfumato.bench.benchmark import Bar, Case, Configuration, Measure, Outcome, Seed, Steps
from sfumato.bench.distill_bars import LONG, bars_of
from sfumato.bench.distill_judge import DistillJudge
from sfumato.bench.distill_scenes import EDITS, SWAP, scene_edits
from sfumato.bench.editing import QUIET
from sfumato.distillation.distilled import Card, Distilled, load_distilled
from sfumato.distillation.pairs import Pairs, as_bytes
from sfumato.distillation.student import Arch, fresh
from sfumato.distillation.timing import milliseconds, one_thread
from sfumato.distillation.training import Plan, train
from sfumato.edits.method import METHODS
from sfumato.emoji import WEIGHTS
from sfumato.emoji.render import ATLAS, Atlas, atlas_of, render
from sfumato.emoji.scene_edits import SceneEdit
from sfumato.emoji.scenes import World
from sfumato.errors import UsageError
from sfumato.images import save_image, to_images, to_pixels
from sfumato.options import Option
from sfumato.registry import unknown

if TYPE_CHECKING:
    from PIL import Image

    from sfumato.models.base import Model
    from sfumato.watch import Watch

ABOUT = (__doc__ or "").partition("\n\n")[2].partition("\n\n`make`")[0]
TEACHER, STUDENT, OF_TRUTH, UNEDITED = "teacher", "student", "student-of-truth", "unedited"
CONFIGURATIONS = (TEACHER, STUDENT, OF_TRUTH, UNEDITED)
TRAINING_SEED, TEST_SEED = 1, 2024
BATCH = 16
"""Images in the batch that is timed."""
STUDENTS = "students"


@dataclass
class Distill:
    """The benchmark; see the module.

    Attributes:
        steps: Denoising steps of the teacher; None: the model's own choice.
        seed: Of every edit and training.
        teacher: Name of the method.
        edits: Which of `EDITS`, separated by commas.
        pairs: Scenes that the teacher edits for each.
        per_edit: Scenes that are measured of each.
        minutes, training_steps, width, least_psnr, unchanged: As of `sfumato.distill`.
        student: File of a distilled edit to measure on the one edit that is named, in place of training; "": none. The
            teacher is the one of its card, with all its arguments.
        judges: Folder of `judge.safetensors` and `emoji-clip.safetensors`.
        atlas: The drawings.
    """

    steps: Steps = None
    seed: Seed = 0
    teacher: Annotated[str, Option("method that is distilled, with its own options")] = "prompt-to-prompt"
    edits: Annotated[str, Option("edits to distill, separated by commas")] = ",".join(EDITS)
    pairs: Annotated[int, Option("scenes that the teacher edits for each student", low=32, high=100_000)] = 400
    per_edit: Annotated[int, Option("scenes to measure of each edit", low=1, high=10_000)] = 200
    minutes: Annotated[float, Option("time for the training of each student", low=0)] = 10.0
    training_steps: Annotated[int | None, Option("steps of training; none: as many as fit into minutes", low=1)] = None
    width: Annotated[int, Option("channels of a student's first level, a multiple of 8", low=8, high=256)] = 32
    least_psnr: Annotated[float, Option("smallest reconstruction PSNR of a pair's source, dB", low=0)] = 20.0
    unchanged: Annotated[float, Option("largest difference that is no change, in [-1, 1]", low=0, high=2)] = 0.25
    student: Annotated[
        str, Option("distilled edit to measure, NAME.safetensors, in place of training; name one of edits")
    ] = ""
    judges: Annotated[str, Option("folder of judge.safetensors and emoji-clip.safetensors")] = str(WEIGHTS)
    atlas: Annotated[str, Option("PNG of the drawings that scenes are made of")] = str(ATLAS)
    name: str = field(default="distill", init=False)
    title: str = field(default="Distill: an edit in one network call, beside its teacher", init=False)
    about: str = field(default=ABOUT, init=False)
    measures: tuple[Measure, ...] = field(init=False)
    notes: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self.measures = MEASURES
        self._students = Path(STUDENTS)
        self.kinds = [name.strip() for name in self.edits.split(",") if name.strip()]
        for kind in self.kinds:
            if kind not in EDITS:
                raise UsageError(unknown("edit", kind, EDITS))
        _ = METHODS[self.teacher], Arch(width=self.width)  # raise
        self._given = load_distilled(self.student) if self.student else None
        if self._given is not None and len(self.kinds) != 1:
            raise UsageError(f"student is measured on one edit: give edits, one of {', '.join(EDITS)}")
        self._taught_by: dict[str, Any] = {"method": self.teacher, "num_inference_steps": self.steps, "seed": self.seed}
        if self._given is not None:
            card = self._given.card
            self._taught_by = _teacher_of(card, self.student, self.steps)
            taught = f"{card.source_prompt!r} → {card.target_prompt!r}"
            self.notes = (f"{self.student} was taught {taught}; it is measured on the edit {self.kinds[0]}",)

    @property
    def settings(self) -> Mapping[str, Any]:
        names = (
            "steps",
            "seed",
            "teacher",
            "edits",
            "pairs",
            "minutes",
            "training_steps",
            "width",
            "least_psnr",
            "unchanged",
            "student",
        )
        given = {}
        if self._given is not None:
            content = hashlib.sha256(Path(self.student).expanduser().read_bytes()).hexdigest()
            given = {"student_content": content[:16], "taught_by": self._taught_by}
        return {"split": TEST_SEED, **{name: getattr(self, name) for name in names}, **given}

    def cases(self) -> Sequence[Case]:
        return [
            Case(f"{kind}-{number:03d}", kind, edit, f"{edit.source_prompt} → {edit.target_prompt}")
            for kind in self.kinds
            for number, edit in enumerate(self._scenes(kind, self.per_edit, TEST_SEED))
        ]

    def configurations(self, methods: Sequence[str], inversions: Sequence[str]) -> Sequence[Configuration]:
        if inversions:
            raise UsageError("the benchmark distill has no --inversions: the teacher takes its method's first choice")
        for method in methods:
            if method not in CONFIGURATIONS:
                raise UsageError(unknown("configuration", method, list(CONFIGURATIONS)))
        there = [name for name in CONFIGURATIONS if self._given is None or name != OF_TRUTH]
        return [Configuration(name) for name in there if not methods or name in methods]

    def make(
        self, model: Model, folder: Path, watch: Watch, *, workers: int = 1, loading: Mapping[str, Any] | None = None
    ) -> None:
        """Trains the students that are missing, each with a teacher's pairs and on the exact answers."""
        self._students = folder / STUDENTS
        if self._given is not None:
            card = self._given.card
            if model.revision != card.revision:
                raise UsageError(
                    f"{self.student} learned from revision {card.revision} of {card.model}, and this is revision"
                    f" {model.revision} of {model.name}: give its teacher, by --model and --revision"
                )
            return
        for kind in self.kinds:
            place, (student, of_truth) = self._students / kind, self._files(kind)
            place.mkdir(parents=True, exist_ok=True)
            if student.is_file() and of_truth.is_file():
                continue
            edits = self._scenes(kind, self.pairs, TRAINING_SEED)
            exact = self._drawn(edits, place)
            result = sfumato.distill(
                model, place / "edits.csv", method=self.teacher, num_inference_steps=self.steps, seed=self.seed,
                least_psnr=self.least_psnr, unchanged=self.unchanged, distance=self._judge.distance,
                minutes=self.minutes, training_steps=self.training_steps, width=self.width, folder=place,
                loading=loading, workers=workers, watch=watch,
            )  # fmt: skip
            result.distilled.save(student)
            card, planned = result.distilled.card, result.trained.planned
            self._of_truth(exact.some(range(card.pairs_kept)), card, planned, place, watch).save(of_truth)

    def prepare(self, model: Model) -> None:
        _ = self._judge, self._trained

    @cached_property
    def _atlas(self) -> Atlas:
        if not Path(self.atlas).is_file():
            raise UsageError(f"there are no drawings of scenes at {self.atlas}: name their PNG as atlas")
        return atlas_of(Path(self.atlas))

    @cached_property
    def _judge(self) -> DistillJudge:
        return DistillJudge(Path(self.judges))

    @cached_property
    def _trained(self) -> dict[str, dict[str, Distilled]]:
        names = (STUDENT, OF_TRUTH)
        if self._given is not None:
            return {self.kinds[0]: {STUDENT: self._given}}
        return {
            kind: {name: load_distilled(file) for name, file in zip(names, self._files(kind), strict=True)}
            for kind in self.kinds
        }

    def _scenes(self, kind: str, count: int, seed: int) -> list[SceneEdit]:
        world = self._atlas.world
        return scene_edits(
            world, kind, count, seed, swap=SWAP if self._given is None else _told(self._given.card, world)
        )

    def _files(self, kind: str) -> tuple[Path, Path]:
        return self._students / f"{kind}.safetensors", self._students / f"{kind}-of-truth.safetensors"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_judge", "_atlas", "_trained")}

    def _drawn(self, edits: Sequence[SceneEdit], place: Path) -> Pairs:
        """Writes the scenes and their manifest; gives them with their exact answers."""
        sides = [to_images(render([edit.source, edit.target], self._atlas)[0]) for edit in edits]
        names = [f"{number:04d}.png" for number in range(len(edits))]
        for name, (source, _) in zip(names, sides, strict=True):
            if not (place / name).is_file():
                save_image(source, place / name)
        with (place / "edits.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("image", "source_prompt", "target_prompt"))
            rows.writerows((name, one.source_prompt, one.target_prompt) for name, one in zip(names, edits, strict=True))
        before, after = (torch.cat([to_pixels(pair[side]) for pair in sides]) for side in (0, 1))
        return Pairs(tuple(names), as_bytes(before), as_bytes(after))

    def _of_truth(self, exact: Pairs, card: Card, steps: int, place: Path, watch: Watch) -> Distilled:
        """A student of the exact answers, trained as long on as many pairs."""
        student, plan = fresh(Arch(width=self.width), self.seed), Plan(steps, None, seed=self.seed)
        slot = Store(place).slot("training-of-truth")
        trained = train(student, *exact.split(), plan, distance=self._judge.distance, slot=slot, watch=watch)
        card = replace(card, method="exact answers", options={}, data=exact.digest(), steps=trained.steps, notes=())
        return finished(student, exact, card, trained)

    def attempt(self, model: Model, case: Case, configuration: Configuration) -> Outcome:
        edit: SceneEdit = case.data
        source, truth = to_images(render([edit.source, edit.target], self._atlas)[0])
        first, times = case.name.endswith("-000"), dict[str, float | int | None]()
        match configuration.method:
            case "unedited":
                result = source
            case "teacher":
                result = self._taught(model, edit, source, times, batch=first)
            case student:
                distilled = self._trained[case.kind][student]
                result = distilled.apply(source).image
                times |= {
                    "milliseconds": milliseconds(distilled, source),
                    "milliseconds_16": milliseconds(distilled, source, at_once=BATCH, tries=1),
                }
                if first:
                    long = self._seconds(model, edit, source, LONG)
                    times["times_faster"] = 1000.0 * long / (times["milliseconds"] or 1.0)
        figures = self._judge.figures(edit, source, truth, result)
        return Outcome({**figures, **times}, {"source": source, "truth": truth, "result": result})

    def _taught(
        self, model: Model, edit: SceneEdit, source: Image.Image, times: dict[str, float | int | None], *, batch: bool
    ) -> Image.Image:
        """What the teacher makes, and how long it takes."""
        given = self._request(edit)
        done = sfumato.edit(model, source, **given)
        times |= {"milliseconds": 1000.0 * done.cost.seconds, "evaluations": done.cost.evaluations}
        if batch:
            start = time.perf_counter()
            sfumato.edit(model, [source] * BATCH, **given)
            times["milliseconds_16"] = 1000.0 * (time.perf_counter() - start) / BATCH
        image: Image.Image = done.image
        return image

    def _seconds(self, model: Model, edit: SceneEdit, source: Image.Image, steps: int) -> float:
        """Seconds of one edit of the teacher on one thread."""
        with one_thread():
            done = sfumato.edit(model, source, **{**self._request(edit), "num_inference_steps": steps})
        return float(done.cost.seconds)

    def _request(self, edit: SceneEdit) -> dict[str, Any]:
        """Arguments of `sfumato.edit` for the teacher."""
        prompts = {"source_prompt": edit.source_prompt, "target_prompt": edit.target_prompt}
        return {**prompts, **self._taught_by, "watch": QUIET}

    def bars(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Sequence[Bar]:
        """What is asked for of each edit; student and teacher are compared on the cases that both have done."""
        found = []
        for kind in self.kinds:
            done = [row for row in rows if row["kind"] == kind and row["status"] == "done"]
            of = {name: {row["case"]: row for row in done if row["configuration"] == name} for name in CONFIGURATIONS}
            file = Path(self.student).expanduser() if self._given else folder / STUDENTS / f"{kind}.safetensors"
            found += bars_of(kind, of[TEACHER], of[STUDENT], file)
        if self._given is None:
            count = len({row["kind"] for row in rows if row["configuration"] == STUDENT and row["status"] == "done"})
            found.append(Bar("", "different edits", count, len(EDITS), "higher", 0))
        return found

    def summarise(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Mapping[str, float | None]:
        return {}


MEASURES = (
    Measure(
        "target_distance", "distance to the truth", "lower",
        "Perceptual distance between result and exact answer, by the features of the scenes' dual encoder.", "edit", 3,
    ),
    Measure(
        "edit_seen", "edit seen", "higher", "Share where the judge finds what the edit should make.", "edit", 2,
    ),
    Measure(
        "kept_within", "kept outside", "higher",
        "Share of the pixels that the exact edit leaves alone that differ by at most 15 from the source.", "keep", 3,
    ),
    Measure(
        "milliseconds", "ms an image", "lower", "Of one image, from image to image; a student's on one thread.", "", 1,
    ),
    Measure("milliseconds_16", "ms of 16", "lower", "For one image of a batch of 16; likewise.", "", 1),
    Measure(
        "times_faster", "times faster", "higher",
        "An edit of 50 steps by the teacher over the student, on one thread, side by side.", "", 0,
    ),
    Measure("kept_psnr", "PSNR kept, dB", "higher", "Where the exact edit changes nothing, at most 50.", "", 1),
    Measure("target_psnr", "PSNR to the truth, dB", "higher", "Between result and exact answer, at most 50.", "", 1),
    Measure("evaluations", "evaluations", "lower", "Network evaluations of the teacher.", "", 0),
)  # fmt: skip


def _told(card: Card, world: World) -> tuple[str, str]:
    """The concepts that a card's prompts exchange, or those of `SWAP` where they do not say."""
    before, after = (
        [concept.name for concept in world.concepts if f" {concept.name} " in f" {prompt} "]
        for prompt in (card.source_prompt, card.target_prompt)
    )
    gone, come = ([name for name in one if name not in other] for one, other in ((before, after), (after, before)))
    return (gone[0], come[0]) if len(gone) == len(come) == 1 else SWAP


def _teacher_of(card: Card, file: str, steps: int | None) -> dict[str, Any]:
    """Arguments of `sfumato.edit` by which a student's teacher made its pairs.

    Raises:
        UsageError: Other steps are asked for, or it took a file or a network, which a file does not name by itself.
    """
    if steps not in (None, card.num_inference_steps):
        raise UsageError(f"the teacher of {file} took steps={card.num_inference_steps}: leave out --steps")
    options = METHODS[card.method].check_options(dict(card.options))
    if named := sorted({*FILES, *NETWORKS} & {*options, *card.inversion_options}):
        raise UsageError(f"the teacher of {file} took {named[0]}, which is not opened by a file's word")
    return {
        "method": card.method, "inversion": card.inversion, "inversion_options": dict(card.inversion_options) or None,
        "num_inference_steps": card.num_inference_steps, "guidance_scale": card.guidance_scale,
        "negative_prompt": card.negative_prompt, "seed": card.seed, **options,
    }  # fmt: skip
