"""Make docs/quickstart.ipynb from docs/quickstart.md: ``python docs/tools/notebook.py``.

The page is what is written and what the tests run; the notebook holds the same cells, without outputs. A test compares the two.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

__all__ = ["notebook"]

DOCS = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def notebook(page: str) -> str:
    """Return the notebook of a page, as JSON: its Python blocks are cells of code, what lies between them is prose."""
    cells = []
    for i, text in enumerate(BLOCK.split(page)):  # prose and code take turns
        if text.strip():
            cells.append(_cell(text.strip(), code=i % 2 == 1, name=f"cell-{i}"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(text: str, *, code: bool, name: str) -> dict:
    source = text.splitlines(keepends=True)
    cell = {"cell_type": "code" if code else "markdown", "id": name, "metadata": {}, "source": source}
    return cell | ({"execution_count": None, "outputs": []} if code else {})


if __name__ == "__main__":
    (DOCS / "quickstart.ipynb").write_text(notebook((DOCS / "quickstart.md").read_text()))
