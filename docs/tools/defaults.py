"""The reference shows the defaults of signatures (an extension of griffe, named in mkdocs.yml).

Of a parameter documented as ``{"cosine", "step"}`` griffe takes the first choice for its default, whatever the signature says.
"""

from __future__ import annotations

import griffe

__all__ = ["SignatureDefaults"]


class SignatureDefaults(griffe.Extension):
    """Take the default of every documented parameter from the signature."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Correct all docstrings of a package that has been read."""
        _correct(pkg)


def _correct(thing: griffe.Object) -> None:
    """Correct the docstring of a module, class or function, and of what is in it."""
    if thing.docstring and isinstance(thing, (griffe.Class, griffe.Function)):
        for section in thing.docstring.parsed:
            if section.kind is griffe.DocstringSectionKind.parameters:
                for parameter in section.value:
                    if parameter.name in thing.parameters:
                        parameter.value = thing.parameters[parameter.name].default
    for member in thing.members.values():
        if not member.is_alias:
            _correct(member)
