"""Pages of package indexes: what they list, and what makes reading them long."""

from __future__ import annotations

import json

import pytest

from torch_build_farm.core import index_pages

JSON, HTML = "application/vnd.pypi.simple.v1+json", "text/html; charset=utf-8"
URL = "https://index.example/simple/demo/"
WHEEL = "demo-1.0-py3-none-any.whl"


def as_json(*files: object, **more: object) -> bytes:
    return json.dumps({"name": "demo", "meta": {"api-version": "1.1"}, "files": files, **more}).encode()


def test_json() -> None:
    content = as_json(
        {"filename": WHEEL, "url": f"../../files/{WHEEL}", "hashes": {"sha256": "ab"}, "size": 7, "yanked": "broken"},
        {"filename": "demo-1.0.tar.gz", "url": "https://files.example/demo-1.0.tar.gz", "hashes": {}},
        {"filename": "demo-1.0.exe", "url": "https://files.example/demo-1.0.exe", "hashes": {}},
        versions=["1.0"],
    )
    wheel, sdist = index_pages.files(content, JSON, URL, "demo")
    assert (wheel.filename, wheel.url) == (WHEEL, f"https://index.example/files/{WHEEL}")
    assert (wheel.digests, wheel.size, wheel.yanked_reason) == ({"sha256": "ab"}, 7, "broken")
    assert (sdist.filename, sdist.version, sdist.is_yanked) == ("demo-1.0.tar.gz", "1.0", False)


@pytest.mark.parametrize(
    "link", ["http://index.example/demo-1.0-py3-none-any.whl", "ftp://index.example/demo-1.0-py3-none-any.whl"]
)
def test_a_page_that_came_by_tls_leads_to_nothing_without(link: str) -> None:
    pages = [
        (as_json({"filename": WHEEL, "url": link, "hashes": {}}), JSON),
        (f'<a href="{link}">{WHEEL}</a>'.encode(), HTML),
    ]
    for content, kind in pages:
        with pytest.raises(index_pages.PageError, match="without TLS"):
            index_pages.files(content, kind, URL, "demo")
        (file,) = index_pages.files(content, kind, URL.replace("https", "http"), "demo")
        assert file.url == link


def test_html_as_indexes_write_it() -> None:
    content = f"""<!DOCTYPE html><html><head><META name="pypi:repository-version" content="1.0">
        <base href="/files/"><title>a &lt; b</title></head><body>
        <!-- <a href="{WHEEL}">{WHEEL}</a> --><abbr>a</abbr>
        <a href="../" title='"'>up</a> <a name=here>here</a>
        <A data-requires-python="&gt;=3.9" HREF='x/{WHEEL}#sha256=ab' data-yanked data-core-metadata=sha256=cd
        >{WHEEL}</A><br>
        <a data-requires-python=">=3.9" href=demo-1.0.tar.gz><b>demo-1.0</b>.tar.gz </a>
        <a href="{WHEEL}">{WHEEL}""".encode()  # the last link does not end
    wheel, sdist = index_pages.files(content, HTML, URL, "demo")
    assert (wheel.filename, wheel.url) == (WHEEL, f"https://index.example/files/x/{WHEEL}")
    assert (wheel.digests, wheel.requires_python, wheel.is_yanked) == ({"sha256": "ab"}, ">=3.9", True)
    assert (wheel.has_metadata, wheel.metadata_digests) == (True, {"sha256": "cd"})
    assert (sdist.url, sdist.requires_python) == ("https://index.example/files/demo-1.0.tar.gz", ">=3.9")


def link(name: str, **attributes: str) -> bytes:
    more = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f'<a href="{name[:300]}"{more}>{name}</a>'.encode()


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (b"[" * 1_000_000, JSON, "values"),
        (b"[" * 100_000 + b"]" * 100_000, JSON, "nested"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, JSON, "nested"),
        (as_json(*[{}] * 700_000), JSON, "values"),
        (as_json(*[{"filename": f"demo-{n}.zip", "url": "u", "hashes": {}} for n in range(20_001)]), JSON, "20000"),
        (as_json(meta={"api-version": "1." + "1" * 100_000}), JSON, "version of the"),
        (as_json(meta={}), JSON, "version of the"),
        (b'{"files": 1}', JSON, "no files"),
        (b'["files"]', JSON, "no files"),
        (b"<a>" * 200_000, HTML, "tags"),
        (b"".join(link(f"demo-{n}.zip") for n in range(20_001)), HTML, "20000"),
        (b"<a " + b'"' * 40_000, HTML, "does not end"),
        (b"<a x" * 100_000, HTML, "does not end"),
        (b'<meta name="pypi:repository-version" content="2.0">', HTML, "not 1"),
        (b"\x7fELF", "application/octet-stream", "content type"),
    ],
    ids=[
        "arrays", "nested arrays", "nested objects", "values", "files of JSON", "a long version", "no version",
        "no files", "no object", "tags", "files of HTML", "quotes", "open tags", "another interface", "no page",
    ],
)  # fmt: skip
def test_what_is_refused(content: bytes, kind: str, reason: str) -> None:
    with pytest.raises(index_pages.PageError, match=reason):
        index_pages.files(content, kind, URL, "demo")


@pytest.mark.parametrize(
    "name",
    ["demo-" + "1" * 100_000 + ".zip", "demo" + "-a" * 120 + ".whl", "demo-1" + ".a" * 120 + ".whl", "demo-1.whl\n"],
    ids=["long", "dashes", "dots", "a line end"],
)
def test_names_that_take_long_to_read_are_left_out(name: str) -> None:
    """Each of them alone keeps the patterns of pypi_simple or packaging busy for long, or is no file name at all."""
    good = link(WHEEL)
    file = {"filename": name, "url": "u", "hashes": {}}
    assert index_pages.files(as_json(file), JSON, URL, "demo") == []
    assert [file.filename for file in index_pages.files(link(name).strip() + good, HTML, URL, "demo")] in (
        [WHEEL], [name.strip(), WHEEL],
    )  # fmt: skip


@pytest.mark.parametrize("name", [5, None, [WHEEL], {"name": WHEEL}])
def test_a_name_that_is_no_text(name: object) -> None:
    good = {"filename": WHEEL, "url": "u", "hashes": {}}
    (file,) = index_pages.files(as_json({"filename": name, "url": "u", "hashes": {}}, good), JSON, URL, "demo")
    assert file.filename == WHEEL


def test_pages_that_take_beautiful_soup_minutes() -> None:
    nested = b"".join(b'<a href="%d">' % number for number in range(90_000))
    assert index_pages.files(nested, HTML, URL, "demo") == []
    assert index_pages.files(b"<!--" * 90_000, HTML, URL, "demo") == []
    assert index_pages.files(link(WHEEL, title=" " * 8000) * 900, HTML, URL, "demo")[0].filename == WHEEL


@pytest.mark.parametrize("text", ['"\\"' * 200_000, '"' * 200_001, "[" * 9 + '"[[[\\"[[["' + "]" * 9])
def test_depth_leaves_strings_out(text: str) -> None:
    assert index_pages.depth(text) == (9 if text.startswith("[") else 0)
