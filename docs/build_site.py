"""Builds the documentation site and checks its links: ``make docs``, or ``python docs/build_site.py FOLDER``.

Pages link to one another, to the README and to sources by relative paths, so that they can be read in the
repository. For the site each file that is linked to becomes a page: Markdown as it is, sources as code, the
notebook as text and code. Formulas become MathML, so that readers load nothing from elsewhere.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from latex2mathml.converter import convert
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
#: Of a Markdown link or image, what is between the parentheses; of code in it, nothing.
LINK = re.compile(r"(```.*?```|`(?:[^`\n]|\n(?!\n))*`)|(?<=\]\()([^)\s]+)(?=\))", re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
#: A reference of Sphinx's in a docstring.
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):<code>(~?)([\w.]+)</code>")
ATTRIBUTE = re.compile(r'\s(id|name|href|src)="([^"]*)"')


def build(site: Path) -> None:
    """Builds the site in a folder, which is emptied first.

    Raises:
        SystemExit: a link leads nowhere, or the generator warns of anything.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_pages(work / "docs")
        shutil.copy(ROOT / "mkdocs.yml", work)
        path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        # What it says goes to one stream, in order. Of docstrings that cannot be read it only tells.
        env = os.environ | {"PYTHONPATH": path}
        told = subprocess.run(
            command, cwd=work, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if told.returncode or "griffe: " in told.stdout:
            raise SystemExit(told.stdout)
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(work / "site", site)
    for page in site.rglob("*.html"):
        page.write_text(finished(page.read_text()))
    if broken := list(broken_links(site)):
        raise SystemExit("\n".join(broken))


def write_pages(folder: Path) -> None:
    """All pages in Markdown: the README, those in docs/, and every file that one of them links to."""
    left = [ROOT / "README.md", *(path for end in ("md", "ipynb", "css") for path in DOCS.glob(f"*.{end}"))]
    seen = set()
    while left:
        source = left.pop()
        if source in seen:
            continue
        seen.add(source)
        target = folder / page_of(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix != ".md":
            shutil.copy(source, target)
            continue
        text, linked = moved(as_markdown(source), source)
        target.write_text(text)
        left += linked


def page_of(source: Path) -> str:
    """The page that shows a file of the repository, relative to the site."""
    if source == ROOT / "README.md":
        return "index.md"
    if source.is_relative_to(DOCS) and source.suffix in {".md", ".png", ".gif", ".svg", ".css"}:
        return source.relative_to(DOCS).as_posix()
    if source.suffix == ".ipynb":
        return f"{source.stem}-notebook.md"
    name = source.relative_to(ROOT).as_posix()
    return f"repository/{name}" if source.suffix == ".md" else f"repository/{name}.md"


def as_markdown(source: Path) -> str:
    name = source.relative_to(ROOT).as_posix()
    if source.is_dir():
        return f"# {name}\n\n" + "".join(f"- `{path.name}`\n" for path in sorted(source.iterdir()))
    text = source.read_text()
    if source.suffix == ".md":
        return text
    if source.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n\n".join(map(cell_as_markdown, cells)) + f"\n\n*This page is `{name}`, a notebook.*\n"
    try:
        lexer = get_lexer_for_filename(source.name)
    except ClassNotFound:
        lexer = TextLexer()
    # As HTML, and without what could be taken for a link.
    return f"# {name}\n\n" + highlight(text, lexer, HtmlFormatter()).replace("[", "&#91;")


def cell_as_markdown(cell: dict) -> str:
    text = "".join(cell["source"])
    return text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"


def moved(text: str, source: Path) -> tuple[str, list[Path]]:
    """A page with links as the site has them, and the files that they lead to."""
    here, linked = Path(page_of(source)).parent, []

    def rewritten(match: re.Match) -> str:
        name, _, part = (match[2] or "").partition("#")
        if match[1] is not None or not name or urlsplit(name).scheme:
            return match[0]
        path = (source.parent / name).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            raise SystemExit(f"{source.relative_to(ROOT)} links to {name}, which does not exist")
        linked.append(path)
        return os.path.relpath(page_of(path), here) + (f"#{part}" if part else "")

    return LINK.sub(rewritten, text), linked


def finished(page: str) -> str:
    """A page of HTML with formulas as MathML, and Sphinx's references as links where there is a target."""

    def formula(match: re.Match) -> str:
        latex = html.unescape(match[2]).strip()
        if match[1] == "span":
            return convert(latex)
        # Wider than a telephone it moves by itself, and the page stays.
        style = "overflow-x: auto; overflow-y: hidden; padding: 0.3em 0"
        return f'<div style="{style}">{convert(latex, display="block")}</div>'

    def reference(match: re.Match) -> str:
        code = f"<code>{match[2].rpartition('.')[2] if match[1] else match[2]}</code>"
        targets = [
            anchor for anchor in re.findall(r'id="([\w.]+)"', page) if f".{anchor}".endswith(f".{match[2]}")
        ]
        return f'<a href="#{targets[0]}">{code}</a>' if targets else code

    return ROLE.sub(reference, FORMULA.sub(formula, page))


def broken_links(site: Path) -> Iterator[str]:
    """Links inside the site that lead to no file or no place in one; those to elsewhere are not followed."""
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in sorted(site.rglob("*.html"))}
    places = {
        name: {html.unescape(value) for kind, value in ATTRIBUTE.findall(page) if kind in ("id", "name")}
        for name, page in pages.items()
    }
    for name, page in pages.items():
        for kind, value in ATTRIBUTE.findall(page):
            link = urlsplit(urljoin(f"http://site/{name}", html.unescape(value)))
            if kind not in ("href", "src") or urlsplit(value).scheme or value.startswith("//"):
                continue
            target = unquote(link.path).lstrip("/")
            target += "index.html" if (site / target).is_dir() and target[-1:] in ("", "/") else ""
            if not (site / target).is_file():
                yield f"{name} links to {value}, which is not there"
            elif link.fragment and unquote(link.fragment) not in places.get(target, set()):
                yield f"{name} links to {value}: no such place in {target}"


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve())
