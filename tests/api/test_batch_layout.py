"""How the items of a batch are laid out."""

from __future__ import annotations

import time
from pathlib import Path

from sfumato.api.batch_items import Item, Settings
from sfumato.api.batch_layout import named


def test_names_of_many_items_are_found_in_linear_time() -> None:
    """Twenty thousand names, half of them wanted twice, take a fraction of a second of the processor.

    With a list of possible names for each item this took minutes.
    """
    items = [
        Item(k, k, "", "edit", {"image": "a.png", "target_prompt": f"dog {k % 10_000}"}, key=f"{k % 10_000:020}")
        for k in range(20_000)
    ]
    began = time.process_time()
    names = [item.name for item in named(items, Settings({}, Path()), {})]
    assert time.process_time() - began < 10
    assert len({name.lower() for name in names}) == len(items)
    assert names[0] == "a-dog-0.png"
    assert names[10_000] == "a-dog-0-00000000.png"


def test_equal_items_that_want_one_name_are_numbered() -> None:
    items = [Item(k, k, "", "edit", {"image": "a.png", "target_prompt": "dog"}, key="f" * 20) for k in range(5_000)]
    names = [item.name for item in named(items, Settings({}, Path()), {})]
    assert names[:3] == ["a-dog.png", "a-dog-ffffffff.png", "a-dog-ffffffff-2.png"]
    assert names[-1] == "a-dog-ffffffff-4999.png"
