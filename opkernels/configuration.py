"""Configurations: YAML to frozen dataclasses, with every mistake reported at once.

A configuration is a tree of frozen dataclasses, which are the one source of truth: names, types, ranges, defaults.
`read_yaml` reads the file, `override` replaces single values, `build` makes the tree or says what is wrong.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path

__all__ = ["bounded", "build", "describes_particles", "is_plain", "override", "read_yaml", "refuse", "show"]

_Value = typing.TypeVar("_Value")
_DEPTH = 12  # of lists in lists in a free mapping: deeper is a mistake, or an alias of itself


def bounded(default: _Value, **bounds) -> _Value:
    """Return a field with a default and bounds: above, at_least, at_most, choices."""
    return field(default=default, metadata=bounds)


def refuse(where: str, mistakes: list[str]) -> None:
    """Raise a ValueError with all mistakes, one per line, if there are any."""
    if mistakes:
        many = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise ValueError(f"{where} has {many}: {mistakes[0]}" if len(mistakes) == 1 else "\n  ".join([f"{where} has {many}:", *mistakes]))


@functools.cache
def _loader() -> type:
    """Return a SafeLoader (plain data only) that refuses a key written twice and reads 1e-3 as a number, as YAML 1.2 does."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Loader, node):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        loader.flatten_mapping(node)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def read_yaml(path: Path, kind: type) -> dict:
    """Return the mapping in a YAML file that describes a `kind`; only plain data, and no key twice."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ValueError(f"cannot read the configuration {path}: {reason}") from error
    try:
        raw = yaml.load(text, _loader())
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise ValueError(f"{path}{line} is not YAML: {getattr(error, 'problem', None) or error}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds a {type(raw).__name__}; a configuration has the sections {', '.join(_names(kind))}")
    return raw


def describes_particles(path: Path) -> bool:
    """Return whether a configuration is one of particles: those name a flow, or a file alone as data."""
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError):
        return False  # its own reader will say what is wrong
    return isinstance(raw, Mapping) and ("flow" in raw or isinstance(raw.get("data"), str))


def override(raw: dict, assignment: str, mistakes: list[str]) -> dict:
    """Return `raw` with one value replaced, as ``key=value`` says, with dots in the key and YAML in the value."""
    import yaml

    key, equals, text = assignment.partition("=")
    if not equals or not key or not all(key.split(".")):
        mistakes.append(f"{assignment!r}: is not key=value, with dots between the parts of the key")
        return raw
    try:
        value = yaml.load(text, _loader())
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError):
        mistakes.append(f"{key}: the value {text!r} is not YAML")
        return raw
    return _replaced(raw, key.split("."), value)


def _replaced(raw, keys: list[str], value):
    """Return a copy of the mapping with one nested key replaced; what is no mapping on the way becomes one."""
    raw = dict(raw) if isinstance(raw, Mapping) else {}
    raw[keys[0]] = value if len(keys) == 1 else _replaced(raw.get(keys[0]), keys[1:], value)
    return raw


def is_plain(value, depth: int = 0) -> bool:
    """Return whether a value is numbers, texts, lists and mappings of them, not too deep."""
    if depth > _DEPTH:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item, depth + 1) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item, depth + 1) for item in value)
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


def _names(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


def build(kind: type, raw, mistakes: list[str], *, where: str = "", root: type | None = None):
    """Return an instance of the dataclass `kind` from plain data, or None where there are mistakes.

    Parameters
    ----------
    kind : type
        A dataclass.
    raw : mapping
        Plain data.
    mistakes : list of str
        What is wrong is appended here.
    where : str
        The dotted key of `raw` in the whole.
    root : type, optional
        The dataclass of the whole, where misplaced keys are looked for; by default `kind`.
    """
    root = root or kind
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        mistakes.append(f"{where}: got {show(raw)}; expected the keys {', '.join(_names(kind))}")
        return None
    hints, before, values = typing.get_type_hints(kind), len(mistakes), {}
    for key, value in raw.items():
        if key not in hints:
            mistakes.append(f"{_join(where, key)}: is unknown; {_suggest(key, kind, where, root)}")
            continue
        bounds = next(f.metadata for f in dataclasses.fields(kind) if f.name == key)
        values[key] = _convert(value, hints[key], _join(where, key), bounds, mistakes, root)
    return kind(**values) if len(mistakes) == before else None


def _join(where: str, key) -> str:
    return f"{where}.{key}" if where else f"{key}"


def _suggest(key, kind: type, where: str, root: type) -> str:
    names = _names(kind)
    near = difflib.get_close_matches(str(key), names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    for name, section in _sections(root):
        if name != where and str(key) in _names(section):
            return f"{key} belongs under {name}"
    return f"choose one of {', '.join(names)}"


def _sections(kind: type, where: str = "") -> Iterator[tuple[str, type]]:
    """Yield the dataclasses below one by their dotted names."""
    for name, hint in typing.get_type_hints(kind).items():
        for inner in (hint, *typing.get_args(hint)):
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                yield _join(where, name), inner
                yield from _sections(inner, _join(where, name))


def _convert(value, hint, where: str, bounds: Mapping, mistakes: list[str], root: type):
    """Return `value` as the type `hint` says, or report what is wrong with it."""
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, mistakes, where=where, root=root)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        options = [o for o in options if o is not type(None)]
        best = next((o for o in options if (typing.get_origin(o) is tuple) == isinstance(value, (list, tuple))), options[0])
        return _convert(value, best, where, bounds, mistakes, root)
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        items = value if isinstance(value, (list, tuple)) else [value]
        if value is None or isinstance(value, Mapping):
            mistakes.append(f"{where}: got {show(value)}; expected a list")
            return ()
        return tuple(_convert(item, element, where, bounds, mistakes, root) for item in items)
    if hint is dict:
        if isinstance(value, Mapping):
            return dict(value)
        mistakes.append(f"{where}: got {show(value)}; expected a mapping")
        return {}
    return _scalar(value, hint, where, bounds, mistakes)


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _scalar(value, kind: type, where: str, bounds: Mapping, mistakes: list[str]):
    if kind is float and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = str(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        mistakes.append(f"{where}: got {show(value)}; expected {_WORDS[kind]}")
        return value
    if problem := _out_of_bounds(value, bounds):
        mistakes.append(f"{where}: got {show(value)}; {problem}")
    return value


def _out_of_bounds(value, bounds: Mapping) -> str:
    choices = bounds.get("choices")
    if choices and value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(choices)}"
    if "above" in bounds and not value > bounds["above"]:
        return f"give more than {bounds['above']:g}"
    if "at_least" in bounds and not value >= bounds["at_least"]:
        return f"give at least {bounds['at_least']:g}"
    if "at_most" in bounds and not value <= bounds["at_most"]:
        return f"give at most {bounds['at_most']:g}"
    return ""


def show(value) -> str:
    """Return a value as a short text."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
