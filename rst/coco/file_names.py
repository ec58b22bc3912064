"""File names that differ only in how they are written, matched to each other; a match that could be another is none.

The rules are tried one after the other, each on top of those before it: `Sub\\IMG%201.PNG` finds `sub/img 1.png`.
"""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from urllib.parse import unquote

IMAGE_SUFFIX = re.compile(r"\.(jpe?g|jfif|png|bmp|tiff?|webp|gif|jp2|ppm|pgm|avif|heic)$", re.IGNORECASE)
# Blanks, and characters that show nothing, at the ends of a folder, a name or a suffix.
BLANKS = re.compile(r"(?:(?<=[/.])|^)[\s\ufeff\u200b]+|[\s\ufeff\u200b]+(?=[/.]|$)")
LONGEST = 4096  # characters of a path
SHOWN = 3  # names quoted in a message


def _separators(name: str) -> str:
    return name.replace("\\", "/")


def _below(name: str) -> str:
    plain = not (name.startswith(("/", ".")) or "//" in name or "/." in name)
    return name if plain else posixpath.normpath(name).lstrip("/")


def _decoded(name: str) -> str:
    return unquote(unquote(name) if "%" in name else name).replace("+", " ")


def _unicode_form(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFKC", name)


def _without_blanks(name: str) -> str:
    return BLANKS.sub("", name)


def _usual_suffix(name: str) -> str:
    for usual, other in (".jpg", ".jpeg"), (".tif", ".tiff"):
        name = name.removesuffix(other) + usual if name.endswith(other) else name
    return name


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]


def stem_of(path: str) -> str:
    """The name of an image file without folders and suffix."""
    return _stem(_base_name(path.replace("\\", "/")))


def _stem(name: str) -> str:
    return IMAGE_SUFFIX.sub("", name)


# How a message says it -> what makes names alike that differ in this alone.
RULES: dict[str, Callable[[str], str]] = {
    "with / for \\": _separators,
    "without a / in front": _below,
    "with URL-encoding undone": _decoded,
    "in another Unicode form": _unicode_form,
    "without blanks at the ends": _without_blanks,
    "in another case": str.casefold,
    "with .jpg for .jpeg, or .tif for .tiff": _usual_suffix,
    "by the base name, in another folder": _base_name,
    "with a suffix": _stem,
}
FOLDERS = list(RULES).index("by the base name, in another folder")
SUFFIX = "with a suffix"  # added, never exchanged: beside a.jpg there may be a mask a.png


@dataclass(frozen=True)
class Matches:
    """Names found under another spelling.

    Attributes:
        found: the known name of each wanted one.
        ambiguous: wanted name -> known names it could be; or, if several wanted names would find the same known one,
            that one.
        rules: how the names that were found differ, and how many do.
    """

    found: dict[str, str] = field(default_factory=dict)
    ambiguous: dict[str, list[str]] = field(default_factory=dict)
    rules: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        """As in "900 with / for \\, 304 in another case"."""
        return ", ".join(f"{count:,} {rule}" for rule, count in self.rules.most_common())

    def describe_ambiguous(self, names: Sequence[str] = ()) -> str:
        """Which names could be several, or are several for one; these, else the first few."""
        shown = names or list(self.ambiguous)[:SHOWN]
        more = ", ..." * (not names and len(self.ambiguous) > SHOWN)
        return "; ".join(f"{name!r} could be {_listed(self.ambiguous[name])}" for name in shown) + more


def match_names(wanted: Iterable[str], known: Sequence[str], taken: Iterable[str] = ()) -> Matches:
    """Find names that are not among the known ones, in another spelling.

    Args:
        wanted: names that are not known as they are.
        known: names with / between folders.
        taken: known names that are in use under their own spelling, which no other may find.

    Each name goes to the known one that is alike under the fewest rules. Where several are, it goes to none. Names of
    which several would find the same known one find none either.
    """
    left = {name: name for name in wanted if len(name) <= LONGEST}  # -> its form under the rules so far
    forms = {name: name for name in known}
    paths = forms  # forms with their folders
    result = Matches()
    for step, (phrase, rule) in enumerate(RULES.items()):
        if not left:
            break
        forms = {name: rule(form) for name, form in forms.items()}
        paths = forms if step < FOLDERS else paths
        by_form: dict[str, list[str]] = {}
        for name, form in forms.items():
            by_form.setdefault(form, []).append(name)
        for name, form in list(left.items()):
            left[name] = form if phrase == SUFFIX else rule(form)
            options = by_form.get(left[name], [])
            if len(options) > 1 and step >= FOLDERS:
                options = _nearest(_path(name), {option: paths[option] for option in options}, phrase == SUFFIX)
            if len(options) == 1:
                result.found[name] = options[0]
            elif options:
                result.ambiguous[name] = sorted(options)
            if options:
                del left[name]
    _refuse_shared(result, set(taken))
    for name, match in result.found.items():
        result.rules[_difference(name, match)] += 1
    return result


def _path(name: str) -> str:
    for rule in list(RULES.values())[:FOLDERS]:
        name = rule(name)
    return name


def _nearest(name: str, paths: dict[str, str], suffixed: bool) -> list[str]:
    """The known names that share the most folders at the end with a name."""

    def shared(path: str) -> int:
        ours, theirs = name.split("/"), (_stem(path) if suffixed else path).split("/")
        pairs = zip(reversed(ours), reversed(theirs), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    most = max(map(shared, paths.values()))
    return [option for option, path in paths.items() if shared(path) == most]


def _refuse_shared(result: Matches, taken: set[str]) -> None:
    finders = Counter(result.found.values())
    for name, match in list(result.found.items()):
        if finders[match] > 1 or match in taken:
            result.ambiguous[name] = [match]
            del result.found[name]


def _difference(name: str, match: str) -> str:
    """The rules without which the two would not be alike."""
    used: list[str] = []
    ours, theirs = name, match
    for phrase in RULES:
        changed = _apply(phrase, ours, theirs)
        if changed != (ours, theirs):
            used.append(phrase)
        ours, theirs = changed
        if ours == theirs:
            break
    needed = []
    for phrase in used:
        ours, theirs = name, match
        for other in used:
            ours, theirs = (ours, theirs) if other == phrase else _apply(other, ours, theirs)
        if ours != theirs:
            needed.append(phrase)
    return " and ".join(needed or used)


def _apply(phrase: str, wanted: str, known: str) -> tuple[str, str]:
    rule = RULES[phrase]
    return wanted if phrase == SUFFIX else rule(wanted), rule(known)


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]!r}, as could another name"
    return " or ".join(map(repr, names[:SHOWN])) + " or others" * (len(names) > SHOWN)
