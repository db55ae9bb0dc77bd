"""Even weights: equal steps of the weight."""

from __future__ import annotations

from sfumato.errors import UsageError
from sfumato.metrics.distance import Distance
from sfumato.morphs.path import Frames
from sfumato.morphs.spacings.base import Spaced, even_weights, spaced, spacing
from sfumato.morphs.spacings.pair_distances import Ruler
from sfumato.watch import Watch


@spacing(
    "even",
    title="Even weights",
    paper="",
    summary="Takes frames at equal steps of the weight; measures nothing to choose them.",
    when="A first look, or to see the pace of the method itself.",
    cost="each frame once",
)
def even(frames: Frames, distance: Distance, num_frames: int, *, watch: Watch) -> Spaced:
    """Equal steps of the weight; where the path has frames at some weights only, every so many of them."""
    weights = even_weights(num_frames)
    if (known := frames.path.weights) is not None:
        if num_frames > len(known):
            raise UsageError(
                f"this morph has {len(known)} frames, got num_frames={num_frames}: ask for {len(known)} or fewer"
            )
        places = [round(k * (len(known) - 1) / (num_frames - 1)) for k in range(num_frames)]
        weights = [known[place] for place in places]
    ruler = Ruler(frames, distance)
    return spaced(ruler, weights, even=ruler.along(weights), looked=weights[1:-1])
