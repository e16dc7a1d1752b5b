"""The documentation site is built without a warning, its links lead somewhere, and the notebook runs."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import fp3o_jax

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "build_site.py"
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def builder():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built strictly: a warning of the generator or a broken link would end it."""
    folder = tmp_path_factory.mktemp("built") / "site"
    run = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.html")}


def test_pages_are_in_the_navigation(site):
    named = re.findall(r": ([\w-]+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    nav = set(named)
    assert len(named) == len(nav)
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} | {"index", "tutorial-notebook"} == nav
    assert {f"{name}.html" for name in nav} <= set(site)


def test_links_work_without_the_repository(site):
    """What lies outside of docs/ is a page of its own."""
    assert 'href="repository/src/fp3o_jax/method/update.py.html"' in site["method.html"]
    assert "policy_loss" in site["repository/src/fp3o_jax/method/update.py.html"]
    assert 'href="index.html#how-the-update-works"' in site["method.html"]
    assert 'href="../../../method.html"' not in site["index.html"]


def test_public_names_have_their_docstrings(site):
    for name in set(fp3o_jax.__all__) - {"__version__"}:
        assert f'id="fp3o_jax.{name}"' in site["api.html"], name
    text = re.sub(r"<[^>]+>", "", site["api.html"])
    assert "traced, so a grid of them is one vmap" in text
    assert ":class:" not in text and ":func:" not in text


def test_readers_load_nothing_from_elsewhere(site):
    assert site["method.html"].count("<math") > 40
    for name, page in site.items():
        assert "arithmatex" not in page, name
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="(https?:[^"]*)"', page)
        loaded += re.findall(
            r'<link[^>]* rel="?(?:stylesheet|preconnect|icon)"?[^>]* href="(https?:[^"]*)"', page
        )
        assert loaded == [], name


def test_broken_links_are_told(builder, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="here">x</h1><a href="#here"><a href="#gone"><a href="folder/page.html#there">'
        '<img src="figure.png"><a href="https://example.org/gone"><a href="folder/page.html#gone">'
    )
    (tmp_path / "folder" / "page.html").write_text(
        '<p id="there"><a href="../index.html#here"><a href="../gone/">'
    )
    assert list(builder["broken_links"](tmp_path)) == [
        "folder/page.html links to ../gone/, which is not there",
        "index.html links to #gone: no such place in index.html",
        "index.html links to figure.png, which is not there",
        "index.html links to folder/page.html#gone: no such place in folder/page.html",
    ]


def test_links_of_pages_are_moved(builder):
    text = "[a](../README.md#devices) `[b](c.md)` [d](https://x.org) [e](#f)\n![i](sweep.png)"
    text += "\n```\n[g](h.md)\n```\n"
    moved, linked = builder["moved"](text, ROOT / "docs" / "runs.md")
    assert moved == text.replace("../README.md", "index.md")
    assert [path.name for path in linked] == ["README.md", "sweep.png"]
    with pytest.raises(SystemExit, match=r"docs/runs.md links to gone.md, which does not exist"):
        builder["moved"]("[a](gone.md)", ROOT / "docs" / "runs.md")


def test_the_notebook_runs(tmp_path):
    """From the first cell to the last, in a kernel of its own; only the training is cut short."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    for cell in notebook.cells:
        cell.source = cell.source.replace("total_env_steps=80_000", "total_env_steps=3_200")
    assert "3_200" in "".join(cell.source for cell in notebook.cells)
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    shown = {kind for output in outputs for kind in output.get("data", ())}
    assert {"image/gif", "image/png"} <= shown
    assert "return over 64 episodes" in "".join(output.get("text", "") for output in outputs)
