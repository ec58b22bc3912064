"""Fonts for class names: Pillow's own has little beyond ASCII, and draws an empty square for what it lacks.

A text in ASCII is drawn with Pillow's font. Any other is drawn with the DejaVu Sans that matplotlib ships (Latin,
Greek, Cyrillic, Arabic and more), else with any installed font that has all of its characters.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

REGULAR = 400  # weight of a font that is neither light nor bold
PROBE = 20  # pixels: a font that Pillow cannot open at this size is of no use (some emoji are images of one size)
BESIDE = " .0123456789"  # what a name is drawn with, in the same font
SHOWN = 5  # class names in a note


def label_font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font for a text, `size` in pixels."""
    file = None if text.isascii() else font_file(text)
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)


def drawable(text: str, instead: str) -> str:
    """The text as it is drawn: without control characters; `instead` if no font has its characters."""
    shown = _printable(text)
    return shown if shown and (shown.isascii() or font_file(shown + BESIDE)) else instead


def drawable_name(name: str, label: int) -> str:
    """The class name as it is drawn, "class 3" if no font has its characters."""
    return drawable(name, f"class {label}")


def plot_text(text: str, instead: str) -> str:
    """`drawable` for matplotlib, which takes `$` for mathematics and leaves a label out that begins with `_`."""
    shown = drawable(text, instead).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def plot_name(name: str, label: int) -> str:
    """`drawable_name` for matplotlib."""
    return plot_text(name, f"class {label}")


def font_note(class_names: Sequence[str]) -> str | None:
    """A line on the class names that drawings show as numbers, None if there are none."""
    replaced = {label: name for label, name in enumerate(class_names) if drawable_name(name, label) != _printable(name)}
    if not replaced:
        return None
    listed = ", ".join(f"class {label}: {name!r}" for label, name in list(replaced.items())[:SHOWN])
    return (
        f"no installed font has the characters of {len(replaced)} of {len(class_names)} class names; drawings show "
        f"their numbers instead ({listed}{', ...' * (len(replaced) > SHOWN)})"
    )


def plot_families(texts: Iterable[str]) -> list[str]:
    """Values for matplotlib's `font.family`: what is set, then what the texts need beyond it."""
    from matplotlib import font_manager, rcParams

    files = {font_file(text): None for text in texts if not text.isascii()}
    names = {Path(entry.fname): entry.name for entry in font_manager.fontManager.ttflist} if files else {}
    families = [*rcParams["font.family"], *(names.get(Path(file), "DejaVu Sans") for file in files if file)]
    return list(dict.fromkeys(families))


@lru_cache(maxsize=10_000)
def font_file(text: str) -> str | None:
    """A font file with all characters of the text; None if there is none."""
    wanted = {ord(character) for character in text}
    return next((file for file in _font_files() if wanted <= _characters(file) and _opens(file)), None)


def _printable(name: str) -> str:
    """Composed characters where there are such, blanks for white space, nothing for other control characters."""
    if name.isascii() and name.isprintable():
        return name
    composed = unicodedata.normalize("NFC", name)
    return "".join(c if c.isprintable() else " " * c.isspace() for c in composed).strip()


def _font_files() -> Iterator[str]:
    """matplotlib's DejaVu Sans, then the installed fonts, upright and regular ones first."""
    spec = find_spec("matplotlib")  # does not import it
    folders = [Path(place) for place in (spec.submodule_search_locations if spec else None) or ()]
    for file in (folder / "mpl-data/fonts/ttf/DejaVuSans.ttf" for folder in folders):
        if file.is_file():
            yield str(file)
    yield from _installed(tuple(folders))


@lru_cache(maxsize=1)
def _installed(shipped: tuple[Path, ...]) -> list[str]:
    """Installed font files, without those in matplotlib's own folder: symbols, and a font of placeholders."""
    from matplotlib import font_manager

    found = []
    for entry in font_manager.fontManager.ttflist:
        if "last resort" not in entry.name.lower() and not any(Path(entry.fname).is_relative_to(p) for p in shipped):
            weight = entry.weight if isinstance(entry.weight, int) else font_manager.weight_dict.get(entry.weight, 0)
            found.append((entry.style != "normal", abs(weight - REGULAR), entry.stretch != "normal", entry.fname))
    return [file for *_, file in sorted(found)]


@lru_cache(maxsize=1000)
def _characters(file: str) -> frozenset[int]:
    """Code points that a font has glyphs for; none for a file that is no font."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@lru_cache(maxsize=1000)
def _opens(file: str) -> bool:
    try:
        ImageFont.truetype(file, PROBE)
    except OSError:
        return False
    return True
