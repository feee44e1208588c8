"""An extension of griffe: the examples of docstrings (`>>> ...`) become blocks of code; Markdown would nest quotes."""

from __future__ import annotations

import griffe


def fenced(text: str) -> str:
    """A docstring whose examples, up to the next empty line, stand in fences of the same indentation."""
    lines, inside = [], ""
    for line in text.splitlines():
        start = line[: len(line) - len(line.lstrip())]
        if not inside and line.lstrip().startswith(">>> "):
            inside = start + "```"
            lines += ["", inside.replace("```", "```pycon")]
        elif inside and not line.strip():
            lines.append(inside)
            inside = ""
        lines.append(line)
    return "\n".join([*lines, *([inside] if inside else [])])


class FenceExamples(griffe.Extension):
    """Applied to all that has a docstring."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)
