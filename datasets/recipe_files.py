"""Where recipes come from: the bundled ones, YAML files, dicts, and ``key=value`` words that change them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["bundled", "load_data", "override"]

_FOLDER = Path(__file__).parent / "recipes"


def bundled() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def override(data: Mapping, words: list[str]) -> dict:
    """Return a recipe's data with ``key=value`` words applied; dots reach inside: ``solver.viscosity=1e-4``.

    Raises
    ------
    ValueError
        If a word is not of this form or reaches inside a value that holds no keys.
    """
    import yaml

    data = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise ValueError(f"got {word!r}; write key=value, for instance samples=8 or solver.viscosity=1e-4")
        *outer, last = path.split(".")
        place = data
        for key in outer:
            inner = place.setdefault(key, {})
            if not isinstance(inner, Mapping):
                raise ValueError(f"{path} reaches inside {key}, which is {inner!r}; give {key}=value")
            place[key] = dict(inner)
            place = place[key]
        try:
            place[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"cannot read the value of {word!r}; write a number, text, or a list [1, 2]") from error
    return data


def load_data(recipe: str | os.PathLike | Mapping) -> dict:
    """Return a recipe's data: a dict as it is, a YAML file, or a bundled recipe by name.

    Raises
    ------
    ValueError
        If there is no such file or recipe, or it is not YAML with keys.
    """
    import yaml

    if isinstance(recipe, Mapping):
        return dict(recipe)
    if not isinstance(recipe, (str, os.PathLike)):
        raise ValueError(f"got the recipe {recipe!r}; give a YAML file, a dict or one of {', '.join(bundled())}")
    known, path = bundled(), Path(recipe)
    if str(recipe) in known and not path.is_file():
        path = known[str(recipe)]
    if not path.is_file():
        if path.suffix in (".yaml", ".yml"):
            raise ValueError(f"there is no file {recipe}; check the name, or list the bundled recipes with opkernels generate --list")
        close = difflib.get_close_matches(str(recipe), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"give a YAML file or one of {', '.join(known)}"
        raise ValueError(f"there is no recipe {recipe}; {hint}")
    try:
        text = path.read_text(encoding="utf-8")
        twice = _given_twice(yaml.compose(text, yaml.SafeLoader))
        data = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" near line {line + 1}"
        raise ValueError(f"{path} is not readable YAML{where}; write one key: value per line") from error
    if twice:
        raise ValueError(f"{path} gives the key {twice.value} twice, again in line {twice.start_mark.line + 1}; remove one of them")
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} holds no keys; a recipe begins with solver:, domain:, ...")
    return dict(data)


def _given_twice(node):
    """Return the second of two equal keys in a YAML node, or None; the parser would take the last in silence."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(_given_twice, node.value)), None)
    if not isinstance(node, yaml.MappingNode):
        return None
    seen = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            return key
        seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        if found := _given_twice(value):
            return found
    return None
