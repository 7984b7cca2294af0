"""The documentation site hangs together: navigation, links, images, reference, notebook. Needs neither mkdocs nor a build."""

import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]+)?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PARTS = ("", ".models", ".layers", ".solvers", ".solvers.sph", ".training", ".surrogate", ".distributed")


def documented() -> list[str]:
    return [name for page in PAGES for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)]


def pages_of(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in pages_of(value)]


def anchors(page: Path) -> set[str]:
    """Titles as the site names them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    kept = (re.sub(r"[^\w\s-]", "", title.replace("`", "").lower()).strip() for title in titles)
    return {"#" + re.sub(r"[-\s]+", "-", title) for title in kept}


def test_every_page_is_in_the_navigation_once():
    named = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_links_and_images_exist(page):
    broken = []
    for target, anchor in LINK.findall(FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        goal = page if not target else (page.parent / target).resolve()
        if not goal.exists() or (anchor and goal.suffix == ".md" and anchor not in anchors(goal)):
            broken.append(target + anchor)
    assert not broken


def test_every_image_is_used():
    text = "".join(page.read_text() for page in [*PAGES, ROOT / "README.md"])
    assert [p.name for p in sorted((DOCS / "images").iterdir()) if p.name not in text] == []


def test_the_reference_names_modules_that_exist():
    names = documented()
    assert len(names) == len(set(names))
    for name in names:
        assert importlib.import_module(name).__doc__, name


@pytest.mark.parametrize("part", PARTS, ids=lambda p: "opkernels" + p)
def test_every_public_name_is_in_the_reference(part):
    module = importlib.import_module("opkernels" + part)
    names = set(documented())
    if module.__name__ in names:  # a page of the whole package shows all its public names
        return
    homes = {name: getattr(getattr(module, name), "__module__", None) for name in module.__all__ if not name.startswith("__")}
    assert {name: home for name, home in homes.items() if home not in names and home.rpartition(".")[0] not in names} == {}


def test_every_recipe_is_on_its_page():
    text = (DOCS / "recipes.md").read_text()
    assert [p.stem for p in sorted((ROOT / "datasets" / "recipes").glob("*.yaml")) if f"| `{p.stem}` |" not in text] == []


def test_every_model_and_solver_has_a_place():
    from opkernels import models, solvers

    operators, equations = (FENCE.sub("", (DOCS / name).read_text()) for name in ("operators.md", "solvers.md"))
    assert [name for name in models.__all__ if f"`{name}`" not in operators] == []
    ours = [name for name in solvers.__all__ if isinstance(getattr(solvers, name), type) and hasattr(getattr(solvers, name), "solve")]
    assert len(ours) > 10 and [name for name in ours if f"`{name}`" not in equations] == []


def test_the_notebook_is_the_quick_start():
    spec = importlib.util.spec_from_file_location("notebook", DOCS / "tools" / "notebook.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    stored = (DOCS / "quickstart.ipynb").read_text()
    assert stored == tool.notebook((DOCS / "quickstart.md").read_text()), "run python docs/tools/notebook.py"
    code = ["".join(cell["source"]) for cell in json.loads(stored)["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 4 and "ok.fit" in "".join(code)
