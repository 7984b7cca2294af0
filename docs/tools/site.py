"""What the documentation site needs beside its pages: the package laid out as installed, and pages for files linked outside docs/.

Run by mkdocs (`hooks` of mkdocs.yml).

- `solvers` and `datasets` lie beside `opkernels` and are imported as parts of it. The reader of docstrings follows neither the package
  map of pyproject.toml nor links, and passes over a folder without ``__init__.py``; so it is given a copy.
- Pages link to ``../examples/t1.py``, ``../tests/solvers`` and the like, which exist in the repository and not on the site. Each of
  them becomes a page that shows the file, or lists the folder.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

__all__ = ["on_files", "on_page_markdown", "on_startup"]

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build" / "reference"
OUTSIDE = re.compile(r"\]\(((?:\.\./)+)([^)#\s]+)\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".md": "text"}


def on_startup(command: str, dirty: bool) -> None:
    """Lay the package out as pyproject.toml maps it, before anything looks for it."""
    shutil.rmtree(COPY, ignore_errors=True)
    skip = shutil.ignore_patterns("__pycache__", "*.yaml")
    linked = shutil.ignore_patterns("__pycache__", "solvers", "datasets")
    shutil.copytree(ROOT / "opkernels", COPY / "opkernels", ignore=linked)
    for folder in ("solvers", "datasets"):
        shutil.copytree(ROOT / folder, COPY / "opkernels" / folder, ignore=skip)
    (COPY / "opkernels" / "datasets" / "__init__.py").write_text('"""Data: recipes, generation, files."""\n')


def outside(uri: str, ups: str, target: str) -> Path | None:
    """Return the path in the repository that a link of the page docs/`uri` leads to, or None if it stays inside docs/."""
    leaves = len(ups) // 3 > len(PurePosixPath(uri).parts) - 1
    return Path(target) if leaves else None


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file and folder of the repository that a page links to."""
    found = set()
    for page in files.documentation_pages():
        for ups, target in OUTSIDE.findall(page.content_string):
            path = outside(page.src_uri, ups, target)
            if path is not None and (ROOT / path).exists():
                found.add(path)
    for path in sorted(found):
        files.append(File.generated(config, f"source/{path.as_posix()}.md", content=_shown(path)))
    return files


def _shown(path: Path) -> str:
    """Return the page of a file or folder."""
    full, title = ROOT / path, f"# {path.as_posix()}\n\n"
    if full.is_dir():
        return title + "".join(f"- `{p.name}`\n" for p in sorted(full.iterdir()) if not p.name.startswith(("_", ".")))
    return f"{title}````{LANGUAGES.get(full.suffix, 'text')}\n{full.read_text().rstrip()}\n````\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of docs/ to the pages of their files."""
    up = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)

    def lead(match: re.Match) -> str:
        path = outside(page.file.src_uri, *match.groups())
        return match.group() if path is None else f"]({up}source/{path.as_posix()}.md)"

    return OUTSIDE.sub(lead, markdown)
