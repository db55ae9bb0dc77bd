"""`python -m tools.pages` writes every page; with `--check` it only says which are behind."""

from __future__ import annotations

import sys

from tools.pages import all_pages


def main() -> None:
    """Writes, or compares."""
    behind = []
    for name, module in all_pages().items():
        text = module.PAGE.read_text(encoding="utf-8")
        if module.written(text) != text:
            behind.append(name)
            if "--check" not in sys.argv:
                module.PAGE.write_text(module.written(text), encoding="utf-8")
                print(f"{name}: {module.PAGE} written")
    if behind and "--check" in sys.argv:
        sys.exit(f"behind their figures: {', '.join(behind)}; run make pages")


if __name__ == "__main__":
    main()
