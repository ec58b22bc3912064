"""Names beyond ASCII in drawings and plots: letters, never empty squares."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from rst.evaluation import draw_detections, evaluate, fonts
from rst.evaluation.fonts import drawable_name, font_file, font_note, label_font, plot_families, plot_name, plot_text
from rst.evaluation.plots import draw_evaluation

MISSING = "猫"  # not in DejaVu; no other font is installed, as far as these tests can see
LETTERS = ["Bär", "Ёлка", "δέντρο", "ağaç", "cây", "شجرة", "½ m²", "→ left"]


@pytest.fixture(autouse=True)
def _no_other_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fonts, "_installed", lambda shipped: [])
    fonts.font_file.cache_clear()
    yield
    fonts.font_file.cache_clear()


def glyph(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> bytes:
    image = Image.new("L", (60, 60))
    ImageDraw.Draw(image).text((5, 5), text, fill=255, font=font)
    return image.tobytes()


@pytest.mark.parametrize("name", LETTERS)
def test_each_letter_has_a_glyph_of_its_own(name: str) -> None:
    font = label_font(f"{name} 0.90", 20)
    square = glyph(MISSING, font)
    assert drawable_name(name, 0) == name
    for letter in name.replace(" ", ""):
        assert glyph(letter, font) not in (square, glyph(" ", font))


def test_ascii_keeps_its_font() -> None:
    font = label_font("traffic light 0.90", 20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    own = ImageFont.load_default(20)
    assert isinstance(own, ImageFont.FreeTypeFont)
    assert font.getname() == own.getname()


def test_what_no_font_has_is_a_number_and_is_said_once() -> None:
    names = ["cat", f"{MISSING}{MISSING}", "", "Ёлка", "\x07\u200b"]
    assert [drawable_name(name, label) for label, name in enumerate(names)] == [
        "cat",
        "class 1",
        "class 2",
        "Ёлка",
        "class 4",
    ]
    note = font_note(names)
    assert note is not None
    assert note.startswith("no installed font has the characters of 3 of 5 class names; drawings show their numbers")
    assert "class 1: " in note
    assert font_note(["cat", "Ёлка"]) is None


def test_control_characters_and_forms_of_unicode() -> None:
    assert drawable_name("a\nb\tc", 0) == "a b c"
    assert drawable_name("e\u0301tude", 0) == "étude"
    assert drawable_name("zero\u200bwidth", 0) == "zerowidth"


def test_an_installed_font_helps_where_dejavu_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a font for Chinese is installed: here one that is said to have the missing characters."""
    dejavu = font_file("é")
    assert dejavu is not None
    other = Path(dejavu).with_name("DejaVuSerif.ttf")
    characters = fonts._characters
    monkeypatch.setattr(fonts, "_installed", lambda shipped: ["/no/such/font.ttf", str(other)])
    more = frozenset(map(ord, f"{MISSING} .0123456789"))
    monkeypatch.setattr(fonts, "_characters", lambda file: more if file == str(other) else characters(file))
    assert drawable_name(MISSING, 0) == MISSING
    assert font_file(f"{MISSING} 0.90") == str(other)
    assert "DejaVu Serif" in plot_families([MISSING])


def test_without_matplotlibs_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_font_files", lambda: iter(()))
    assert drawable_name("Ёлка", 3) == "class 3"
    found = {"boxes": [[20, 40, 90, 90]], "labels": [0], "scores": [1.0]}
    assert draw_detections(Image.new("RGB", (200, 100)), found, ["Ёлка"]).size == (200, 100)


def test_plots_take_names_as_they_are(recwarn: pytest.WarningsRecorder) -> None:
    names = ["$5 bill$", "_hidden", "50% $", "Ёлка", "x^2$y_1$"]
    assert [plot_name(name, 0) for name in names] == [r"\$5 bill\$", " _hidden", r"50% \$", "Ёлка", r"x^2\$y_1\$"]
    figure = Figure()
    axis = figure.subplots()
    for name in names:
        axis.plot([0, 1], label=plot_text(name, "none"))
    legend = axis.legend()
    FigureCanvasAgg(figure).draw()
    assert len(legend.get_texts()) == len(names)
    assert not [warning for warning in recwarn if "lyph" in str(warning.message)], "a missing glyph"


def test_an_evaluation_with_any_class_names_is_drawn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    names = ["Ёлка", MISSING, "_x", "$a$", "ok"]
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": i, "bbox": [10 * i, 0, 9, 9]} for i in range(len(names))
        ],
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth))
    results = [{**entry, "score": 0.9} for entry in truth["annotations"]]
    evaluation = evaluate(file, results)
    assert evaluation.metrics["AP"] == pytest.approx(1.0), "boxes need no sizes of images"
    assert len(draw_evaluation(evaluation, tmp_path / "plots")) == 2
    assert not [warning for warning in recwarn if "lyph" in str(warning.message)]
