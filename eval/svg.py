"""SVG elements as text: escaped, without style attributes, coloured by classes of the page's style sheet."""

from __future__ import annotations

from markupsafe import Markup, escape

from distill.eval.wording import printable

NARROW_PX = 480
"""Plots narrower than this put labels above their line, for phones."""


def tag(name: str, *inside: str, title: str = "", **attributes: object) -> str:
    """One element.

    Args:
        name: Of the element.
        *inside: What it holds, already SVG.
        title: Words that browsers show on hover.
        **attributes: Underscores stand for hyphens, a trailing one is dropped (``class_``); None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_written(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    held = "".join(inside) + (f"<title>{escape(printable(title))}</title>" if title else "")
    return f"<{name}{written}>{held}</{name}>" if held else f"<{name}{written}/>"


def text(x: float, y: float, words: str, *, anchor: str = "start", style: str | None = None) -> str:
    """A line of text at a point."""
    return tag("text", str(escape(printable(words))), x=x, y=y, text_anchor=anchor, class_=style)


def line(x1: float, y1: float, x2: float, y2: float, *, style: str) -> str:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def dot(x: float, y: float, r: float, *, style: str) -> str:
    """A filled circle."""
    return tag("circle", cx=x, cy=y, r=r, class_=style)


def drawing(*inside: str, title: str, spoken: str, size: tuple[float, float]) -> Markup:
    """A whole drawing, safe to put into a page.

    Args:
        *inside: Elements.
        title: What it shows.
        spoken: Its numbers in words, for those who hear the page.
        size: Width and height in pixels.
    """
    width, height = (round(side) for side in size)
    label = f"{title}. {spoken}" if spoken else title
    return Markup(
        tag("svg", *inside, role="img", viewBox=f"0 0 {width} {height}", width=width, height=height, aria_label=label)
    )


def text_width(words: str) -> float:
    """Roughly, in pixels at the plots' font size; East Asian letters take twice the room."""
    return sum(13.5 if ord(letter) > 0x2E80 else 8.0 for letter in words)


def cut(words: str, longest: int) -> str:
    """The words, cut with an ellipsis where they are longer."""
    return words if len(words) <= longest else words[: longest - 1] + "…"


def _written(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(escape(printable(value)))
