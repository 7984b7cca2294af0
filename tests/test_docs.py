"""Every code block of the README and of docs/ runs as it stands.

The Python blocks of one page share a namespace and a temporary folder, in order with its shell blocks.
In shell blocks, `opkernels` commands are run, in this process, which has imported what each of them needs; so is `python examples/...`,
in one of its own; `make` targets must exist.
A block preceded by ``<!-- slow -->`` is left to the demo and the benchmarks.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from opkernels.cli import main
from opkernels.datasets import generation

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- slow -->\s*\n)?^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "bash", "text", "yaml", "math", "bibtex"}


def run_shell(block: str, folder: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for line in block.replace("\\\n", " ").strip().splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] in ("git", "cd", "pip"):
            continue
        if words[0] == "make":
            assert words[1] in targets, f"the Makefile has no target {words[1]}"
            continue
        assert words[0] in ("opkernels", "python"), f"a page shows a command that no test runs: {line}"
        arguments = [str(ROOT / w) if (ROOT / w).exists() and "/" in w else w for w in words[1:]]
        if words[0] == "opkernels":
            assert main(arguments) == 0, line
            continue
        done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def kept_threads():
    """Commands choose their number of threads; give it back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_runs(page, tmp_path, monkeypatch, kept_threads):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generation, "_usable_cores", lambda: 1)  # the same bits without processes of its own (`test_generation`)
    namespace = {"__name__": "page"}
    for slow, language, block in BLOCK.findall(page.read_text()):
        assert language in LANGUAGES, f"{page.name} has a block in {language}"
        if slow:
            continue
        if language == "python":
            exec(compile(block, str(page), "exec"), namespace)
        elif language == "bash":
            run_shell(block, tmp_path)


def test_every_link_to_a_file_leads_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken
