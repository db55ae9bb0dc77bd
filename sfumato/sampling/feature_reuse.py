"""At which steps of a run deep features of an earlier step are used again."""

from __future__ import annotations

from collections.abc import Sequence

from sfumato.models.feature_cache import FeatureCache
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Control, Layout


class FeatureReuse:
    """Has a network computed in full at every so many steps, and wherever a control acts or other rows are needed."""

    def __init__(self, cache: FeatureCache | None, interval: int, controls: Sequence[Control], layout: Layout) -> None:
        """Takes the cache of the run's network; None: nothing is used again."""
        self._cache, self._interval, self._controls, self._layout = cache, interval, controls, layout
        self._age = interval  # steps since the features were computed
        self._cells = layout.cells

    def at_step(self, step: Step) -> None:
        """Called before the network calls of each step."""
        if self._cache is None:
            return
        acts, same_rows = any(control.acts(step) for control in self._controls), self._cells == self._layout.cells
        full = acts or not same_rows or self._age >= self._interval
        self._age, self._cells = 1 if full else self._age + 1, self._layout.cells
        self._cache.at_step(reuse=not full)
