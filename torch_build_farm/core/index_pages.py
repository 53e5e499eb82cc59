"""A project's page on a package index, as JSON (PEP 691) or HTML (PEP 503), to the files that it lists.

pypi_simple makes the files. It does not read the page, since its work is bounded by nothing: a link in a link in a
link, 20,000 deep, takes Beautiful Soup minutes, a tag takes it 500 times the tag's bytes, and one long file name keeps
the patterns for file names busy for hours. So the page's size, structure and names are checked first, and links are
found by a scanner that only moves forward.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage, Link

MOST_FILES = 20_000  # of one project; torch has some 1,500
_MOST_VALUES = 30 * MOST_FILES  # of a JSON page: a file has some 15
_MOST_TAGS = 5 * MOST_FILES  # of an HTML page: a link has two, and often a line break
_DEEPEST = 20  # arrays and objects within each other; PEP 691 has 4
_LONGEST_TAG = 16384  # characters
_LONGEST_VERSION = 20  # characters of the interface's version
_LONGEST_LABEL = 1024  # characters of a link's text
_LONGEST_URL = 4096  # characters; with a signature, some storages have 1,500

# What the farm reads; the limits of dots and dashes keep pypi_simple's patterns from trying every split of a name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}(?:\.whl|\.zip|\.tar\.gz|\.tar\.bz2|\.tgz)")
_MOST_DASHES, _MOST_DOTS = 20, 40

_TAG = re.compile(r"<(?:(?P<comment>!--)|(?P<name>a|base|meta)(?=[\s/>]))", re.IGNORECASE)
_REST_OF_TAG = re.compile(r"""(?>[^>"']|"[^"]*+"|'[^']*+')*+>""")
_ATTRIBUTE = re.compile(r"""([^\s"'>/=]++)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s"'>]++)))?""")
_INNER_TAG = re.compile(r"<[^<>]*+>")


class PageError(ValueError):
    """The page is not a package index's, or has more than a page may have."""


def _is_read(name: object) -> bool:
    """Whether the farm reads files of this name, and pypi_simple can read the name in little time."""
    return (
        isinstance(name, str)
        and _NAME.fullmatch(name) is not None
        and name.count("-") <= _MOST_DASHES
        and name.count(".") <= _MOST_DOTS
    )


def _check_count(count: int) -> None:
    if count > MOST_FILES:
        raise PageError(f"it lists more than {MOST_FILES} files")


def depth(text: str) -> int:
    """How deep the arrays and objects of a JSON text are within each other, brackets in strings left out."""
    level = deepest = 0
    for match in re.finditer(r'"(?>[^"\\]|\\.)*+"?|[\[{]|[\]}]', text, re.DOTALL):
        character = match[0]
        if character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest


def _of_json(content: bytes, url: str, name: str) -> list[DistributionPackage]:
    from pypi_simple import ProjectPage  # noqa: PLC0415 (slow to import)

    if content.count(b",") + content.count(b"[") + content.count(b"{") > _MOST_VALUES:
        raise PageError("it has more values than a page of files has")
    text = content.decode()
    if depth(text) > _DEEPEST:
        raise PageError("its values are nested too deep")
    data: Any = json.loads(text)
    if not isinstance(data, dict) or not isinstance(data.get("files"), list):
        raise PageError("it lists no files")
    files = []
    for file in data["files"]:
        if isinstance(file, dict) and _is_read(file.get("filename")) and len(str(file.get("url"))) <= _LONGEST_URL:
            files.append(file)
    _check_count(len(files))
    meta = data.get("meta")
    version = meta.get("api-version") if isinstance(meta, dict) else None
    if not isinstance(version, str) or len(version) > _LONGEST_VERSION:
        raise PageError("it does not state its version of the index's interface")
    # With the name that was asked for: pypi_simple makes a pattern of the page's own.
    page = {"name": name, "files": files, "meta": {"api-version": version}}
    return ProjectPage.from_json_data(page, url).packages


def _attributes(tag: str) -> dict[str, str]:
    """The attributes in the text between a tag's name and its end; of a repeated one the first."""
    attributes: dict[str, str] = {}
    for match in _ATTRIBUTE.finditer(tag):
        value = next((group for group in match.groups()[1:] if group is not None), "")
        attributes.setdefault(match[1].lower(), html.unescape(value))
    return attributes


def _tags(text: str) -> Iterator[tuple[str, dict[str, str], int]]:
    """The `a`, `base` and `meta` tags of an HTML text with their attributes, and where each ends."""
    position = 0
    while True:
        start = _TAG.search(text, position)
        if start is None:
            return
        if start["comment"]:
            position = text.find("-->", start.end())
            if position < 0:
                return
            continue
        rest = _REST_OF_TAG.match(text, start.end(), start.end() + _LONGEST_TAG)
        if rest is None:
            raise PageError("a tag does not end")
        position = rest.end()
        yield start["name"].lower(), _attributes(rest[0][:-1]), position


def _label(text: str, start: int) -> str:
    """The text of the link whose tag ends at `start`, without other tags in it; empty for one that is long."""
    label, end_tag, _ = text[start : start + _LONGEST_LABEL].replace("</A", "</a").partition("</a")
    return html.unescape(_INNER_TAG.sub("", label)).strip() if end_tag else ""


def _links(text: str, base: str) -> Iterator[Link]:
    from pypi_simple import Link  # noqa: PLC0415

    for name, attributes, end in _tags(text):
        if name == "base" and attributes.get("href"):
            base = urljoin(base, attributes["href"][:_LONGEST_URL])
        elif name == "meta" and attributes.get("name", "").lower() == "pypi:repository-version":
            # A later major version may mean other things by the same tags (PEP 629).
            if attributes.get("content", "").partition(".")[0] != "1":
                raise PageError("its version of the index's interface is not 1")
        elif name == "a" and 0 < len(attributes.get("href", "")) <= _LONGEST_URL:
            label = _label(text, end)
            if _is_read(label):
                yield Link(text=label, url=urljoin(base, attributes["href"]), attrs=dict(attributes))


def _of_html(content: bytes, charset: str, url: str, name: str) -> list[DistributionPackage]:
    from pypi_simple import DistributionPackage  # noqa: PLC0415

    if content.count(b"<") > _MOST_TAGS:
        raise PageError("it has more tags than a page of files has")
    encoding = charset if charset.lower() in ("latin-1", "iso-8859-1", "us-ascii") else "utf-8"
    files = []
    for link in _links(content.decode(encoding, "replace"), url):
        files.append(DistributionPackage.from_link(link, name))
        _check_count(len(files))
    return files


def has_tls(url: str) -> bool:
    """Whether a URL's connection is encrypted, and its server known."""
    return url.lower().startswith("https:")


def files(content: bytes, content_type: str, url: str, name: str) -> list[DistributionPackage]:
    """The wheels and sdists that a page lists, which came from `url`, for the project `name`.

    Raises ValueError for what is not such a page, has more of anything than a page may have, or leads from https to a
    connection without TLS.
    """
    listed = _listed(content, content_type, url, name)
    for file in listed:
        if has_tls(url) and not has_tls(file.url):
            raise PageError(f"it leads from https to a connection without TLS: {file.filename}")
    return listed


def _listed(content: bytes, content_type: str, url: str, name: str) -> list[DistributionPackage]:
    """The files of a page, wherever they lie."""
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip().lower()
    if kind == "application/vnd.pypi.simple.v1+json":
        return _of_json(content, url, name)
    if kind in ("application/vnd.pypi.simple.v1+html", "text/html", ""):
        charset = re.search(r"charset=[\"']?([\w-]{1,40})", parameters[:200])
        return _of_html(content, charset[1] if charset else "utf-8", url, name)
    raise PageError(f"its content type is {kind[:60]}")
