"""Templates: rendered in a sandbox, escaped where they are HTML, and never made of a message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kworker import Reject
from kworker_email import Template
from kworker_email.message import Content
from kworker_email.templates import Templates


def templates(folder: Path | None = None, **inline: Template) -> Templates:
    faults: list[str] = []
    made = Templates(inline, None if folder is None else str(folder), faults)
    assert faults == []
    return made


HELLO = Template(subject="Hello {{ name }}", text="Dear {{ name }},\n", html="<p>Dear {{ name }}</p>")


def test_html_is_escaped_and_text_is_not() -> None:
    content = templates(hello=HELLO).render("hello", {"name": "<Ada & Co>"})
    assert content == Content("Hello <Ada & Co>", "Dear <Ada & Co>,", "<p>Dear &lt;Ada &amp; Co&gt;</p>")


def test_a_variable_is_no_template() -> None:
    content = templates(hello=HELLO).render("hello", {"name": "{{ 7 * 7 }}{% include 'hello.txt' %}"})
    assert content.text == "Dear {{ 7 * 7 }}{% include 'hello.txt' %},"


def test_a_folder_of_files_may_extend_and_include(tmp_path: Path) -> None:
    (tmp_path / "base.html").write_text("<body>{% block body %}{% endblock %}{% include 'foot.txt' %}</body>")
    (tmp_path / "foot.txt").write_text("-- {{ name }}\n")
    (tmp_path / "hello.subject").write_text("Hello\n")
    (tmp_path / "hello.html").write_text("{% extends 'base.html' %}{% block body %}{{ name }} {% endblock %}")
    made = templates(tmp_path, other=Template(subject="x", html="{% include 'foot.txt' %}"))
    assert made.render("hello", {"name": "<Ada>"}) == Content("Hello", None, "<body>&lt;Ada&gt; -- &lt;Ada&gt;</body>")
    assert made.render("other", {"name": "&"}).html == "-- &amp;"
    for name in ("base", "foot", "base.html", "../hello", "hello.subject", ""):
        with pytest.raises(Reject, match="is none of the templates"):
            made.render(name, {})


def test_one_name_has_one_place(tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("x")
    faults: list[str] = []
    Templates({"hello": HELLO}, str(tmp_path), faults)
    assert faults == ["plugins.email: templates: 'hello.txt' is also in template_dir"]


@pytest.mark.parametrize(
    ("text", "variables", "why"),
    [
        ("{{ name }}", {}, "'name' is undefined"),
        ("{{ user.name }}", {"user": {}}, "has no attribute 'name'"),
        ("{{ n + 1 }}", {"n": "x"}, "TypeError"),
        ("{{ 1 / n }}", {"n": 0}, "ZeroDivisionError"),
        ("{% for x in range(n) %}{% endfor %}", {"n": 10**9}, "OverflowError"),
    ],
)
def test_variables_that_do_not_fit_are_rejected(text: str, variables: dict[str, Any], why: str) -> None:
    with pytest.raises(Reject, match=r"template t\.txt: ") as error:
        templates(t=Template(subject="s", text=text)).render("t", variables)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ name.__class__.__mro__ }}",
        "{{ name|attr('__class__') }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ items.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
    ],
)
def test_the_sandbox_holds(text: str) -> None:
    with pytest.raises(Reject, match=r"template t\.txt: (Security|Undefined)Error"):
        templates(t=Template(subject="s", text=text)).render("t", {"name": "x", "items": []})
