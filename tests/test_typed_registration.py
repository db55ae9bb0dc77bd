"""What the type checker knows of what is registered: what edits, inversions, morphs and spacings take, their options,
what they give, as functions and as entries of their registries.
"""

from pathlib import Path

import pytest

from tests.type_checks import check_types

EDITS = """
from typing import Annotated, Any

from sfumato.edits.method import METHODS, edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.models.base import Model
from sfumato.options import Option

texts: Any = {}


@edit_method("toy", **texts)
def toy(task: EditTask, *, strength: Annotated[float, Option("how much")] = 0.5) -> LatentEdit:
    return task.edited(task.source.clean)


@edit_method("no-task", **texts)  # wrong: it takes no task
def no_task(model: Model, *, strength: float = 0.5) -> LatentEdit:
    raise NotImplementedError


@edit_method("no-default", **texts)  # wrong: an option without a default
def no_default(task: EditTask, *, strength: float) -> LatentEdit:
    raise NotImplementedError


@edit_method("no-edit", **texts)  # wrong: it gives something else
def no_edit(task: EditTask) -> Model:
    raise NotImplementedError


def use(task: EditTask) -> LatentEdit:
    toy(1, 2, 3, strength=0.5)  # wrong: arguments that it does not take
    toy(task, strenght=0.5)  # wrong: an option that it does not have
    toy(task, strength="much")  # wrong: an option of another type
    METHODS["toy"].function(task.source)  # wrong: what is not a task
    METHODS["toy"].function()  # wrong: no task
    model: Model = METHODS["toy"].function(task)  # wrong: it gives something else
    METHODS["toy"].function(task, strength=0.7)
    task.watch.during("a stage")  # there always is one, silent where nobody watches
    return toy(task, strength=0.7)
"""

OTHERS = """
from typing import Annotated, Any

from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.method import INVERSIONS, inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.metrics.distance import Distance
from sfumato.models.base import Model
from sfumato.morphs.crossfade import crossfade
from sfumato.morphs.method import MORPHS, morph_method
from sfumato.morphs.path import Frames, MorphPath
from sfumato.morphs.spacings.base import SPACINGS, Spaced, spacing
from sfumato.morphs.spacings.uniform import uniform
from sfumato.morphs.task import MorphTask
from sfumato.options import Option
from sfumato.watch import Watch

texts: Any = {}


@inversion("no-inversion-task", **texts)  # wrong: it takes no task
def no_inversion_task(model: Model, *, share: float = 0.5) -> Inversion:
    raise NotImplementedError


@inversion("no-default", **texts)  # wrong: an option without a default
def no_default(task: InversionTask, *, share: Annotated[float, Option("how much")]) -> Inversion:
    raise NotImplementedError


@inversion("no-inversion", **texts)  # wrong: it gives something else
def no_inversion(task: InversionTask) -> MorphPath:
    raise NotImplementedError


@inversion("no-text", title="", paper="", summary="", when="")  # wrong: a text is missing
def no_text(task: InversionTask) -> Inversion:
    raise NotImplementedError


@morph_method("no-morph-task", **texts)  # wrong: it takes another task
def no_morph_task(task: InversionTask) -> MorphPath:
    raise NotImplementedError


@morph_method("no-path", **texts)  # wrong: it gives something else
def no_path(task: MorphTask) -> Inversion:
    raise NotImplementedError


@spacing("no-frames", **texts)  # wrong: it takes no frames
def no_frames(distance: Distance, num_frames: int, *, watch: Watch) -> Spaced:
    raise NotImplementedError


def use(task: InversionTask, morph: MorphTask, frames: Frames, distance: Distance) -> None:
    ddim_inversion(task, conditioned_on="current")
    ddim_inversion(task, conditioned_on="never")  # wrong: no choice of the option
    ddim_inversion(task, condition_on="current")  # wrong: an option that it does not have
    ddim_inversion(task.model, task.latents, task.condition)  # wrong: arguments that it does not take
    crossfade(morph, space="latents")
    crossfade(morph, space=1)  # wrong: an option of another type
    crossfade(task)  # wrong: a task of another kind
    uniform(frames, distance, 16, watch=Watch(), tolerance=0.1)
    uniform(frames, distance, 16, watch=Watch(), tolerance="low")  # wrong: an option of another type
    INVERSIONS["ddim"].function(task, conditioned_on="current")
    INVERSIONS["ddim"].function(morph)  # wrong: a task of another kind
    INVERSIONS["ddim"].function(task.latents)  # wrong: what is not a task
    MORPHS["crossfade"].function(morph, space="latents")
    MORPHS["crossfade"].function(task)  # wrong: a task of another kind
    inversion: Inversion = MORPHS["crossfade"].function(morph)  # wrong: it gives something else
    SPACINGS["uniform"].function(frames, distance, 16, watch=Watch())
    SPACINGS["uniform"].function(distance, frames, 16, watch=Watch())  # wrong: arguments in another order
"""


@pytest.mark.long
def test_the_type_checker_finds_wrong_functions_and_wrong_calls(tmp_path: Path) -> None:
    check_types(tmp_path, edits=EDITS, others=OTHERS)
