"""Texts cut into passages: nothing lost, nothing too long, cut where a reader would."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from indexing import CODE, NOTE

from castor.index.forms import TEXT_FORMS, form_of
from castor.index.passages import LONGEST, passages
from castor.index.words import phrase, spaced, terms

LINES = st.lists(
    st.one_of(
        st.sampled_from(["", "# Title", "## Part", "```", "def f(x):", "    return x", "class A:", "}", "\tif x:"]),
        st.text(alphabet="abc .!?红\u2028é", max_size=120),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(lines=LINES, form=st.sampled_from(sorted(TEXT_FORMS)), longest=st.integers(10, 300))
def test_nothing_is_lost_and_nothing_too_long(lines: list[str], form: str, longest: int) -> None:
    text = "\n".join(lines)
    made = passages(text, form, longest)
    assert "".join("".join(each.text.split()) for each in made) == "".join(text.split())
    assert all(0 < len(each.text) <= longest for each in made)
    assert all(1 <= each.first_line <= each.last_line <= len(lines) for each in made)
    for each in made:  # a passage lies in the lines that it names
        shown = "\n".join(lines[each.first_line - 1 : each.last_line])
        assert each.text.strip() in shown


def test_markdown_is_cut_at_headings() -> None:
    made = [(each.title, each.first_line) for each in passages(NOTE, "markdown")]
    assert made == [("Boats", 1), ("Boats > Repairs", 5), ("Birds", 9)]


def test_python_is_cut_at_functions_and_methods() -> None:
    made = {each.title: each.text for each in passages(CODE, "python", 150)}
    assert set(made) >= {"area", "Walk.forward", "Walk.back"}
    assert made["area"].startswith("def area(radius):") and made["area"].endswith("radius**2")
    assert made["Walk.back"] == '    def back(self, steps):\n        """Go back."""\n        return steps - 1'
    assert [each.text for each in passages("def f(:\n  x", "python")] == ["def f(:\n  x"]  # not Python after all


def test_other_code_is_cut_between_functions() -> None:
    code = "int f() {\n  return 1;\n\n}\n\nint g() {\n  return 2;\n}\n"
    assert [each.text for each in passages(code, "code", 30)] == [
        "int f() {\n  return 1;\n\n}",
        "int g() {\n  return 2;\n}",
    ]


def test_a_long_line_is_cut_after_sentences() -> None:
    made = passages("One two three. Four five six. Seven eight nine ten", "text", 32)
    assert [each.text for each in made] == ["One two three. Four five six.", "Seven eight nine ten"]


def test_forms_are_told_from_bytes() -> None:
    assert form_of(b"%PDF-1.7", "note.txt") == "document"
    assert form_of(b"\x89PNG\r\n\x1a\n", "a.md") == "image"
    assert [form_of(b"x = 1", name) for name in ("a.py", "A.MD", "a.rs", "README")] == [
        "python",
        "markdown",
        "code",
        "text",
    ]
    assert form_of("größe 红".encode()[:-1], "cut.txt") == "text"  # the head may end within a letter
    assert form_of(b"\xff\xfe\x00a", "a.txt") is None
    assert form_of(b"{}", "package.lock") is None


def test_words_of_languages_without_spaces() -> None:
    assert terms("Red 红色, red_boat!") == ["red", "红色", "boat"]
    assert phrase("红色") == '"红 色"' and phrase('a"b') == '"a""b"'
    assert spaced("snake_case") == "snake case"


def test_a_heading_stands_with_what_it_heads() -> None:
    """Right above another, and above a list that is too long for one passage."""
    text = "# Changes\n\n## Next\n\n### Added\n\n- One.\n\n## Limits\n\n" + "\n".join(
        f"- {'word ' * 30}{i}" for i in range(12)
    )
    found = passages(text, "markdown")
    assert [part.title for part in found][:2] == ["Changes > Next > Added", "Changes > Limits"]
    assert found[0].text.startswith("# Changes") and found[0].text.endswith("- One.")
    assert found[1].text.startswith("## Limits\n\n- word") and all(len(part.text) <= LONGEST for part in found)
    kept = [line for part in found for line in part.text.splitlines() if line.strip()]
    assert kept == [line for line in text.splitlines() if line.strip()]  # nothing lost, nothing twice
