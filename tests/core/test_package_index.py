"""Which package index is meant."""

from pathlib import Path

import pytest

from tests.raw_server import answering
from torch_build_farm.core.errors import PackageIndexError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.urls import public

FIRST = {
    '[[index]]\nurl = "https://c.example"\n[[index]]\nurl = "https://d.example"\ndefault = true': ("https://c.example",)
}


@pytest.mark.parametrize(
    ("variables", "settings", "url"),
    [
        ({}, "", ""),
        ({"UV_DEFAULT_INDEX": "mine=https://a.example/simple"}, 'index-url = "https://b.example"', "https://a.example/simple"),
        ({"UV_INDEX_URL": "https://a.example/simple"}, "", "https://a.example/simple"),
        ({}, 'index-url = "https://b.example"', "https://b.example"),
        ({}, '[pip]\nindex-url = "https://b.example"', "https://b.example"),
        ({}, '[[index]]\nurl = "https://c.example"\n[[index]]\nurl = "https://d.example"\ndefault = true', "https://d.example"),
        ({"UV_INDEX": "https://d.example mine=https://a.example"}, 'index-url = "https://b.example"', "https://b.example"),
        ({"UV_NO_CONFIG": "1"}, 'index-url = "https://b.example"', ""),
        ({}, "not toml", ""),
        ({}, 'index = "https://b.example"\npip = 1', ""),
        ({}, 'index-url = "https://b.example"\nindex = [1, { name = "mine" }]', "https://b.example"),
    ],
)  # fmt: skip
def test_as_uv_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], settings: str, url: str
) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NO_CONFIG", "UV_CONFIG_FILE", "UV_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").write_text(settings)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = PackageIndex.configured()
    assert found.url == url
    assert found.first == (
        ("https://d.example", "https://a.example") if "UV_INDEX" in variables else FIRST.get(settings, ())
    )


@pytest.mark.parametrize("url", ["https://example.org/simple", "git@example.org:a/b", "/a/folder"])
def test_a_url_without_a_password_stays(url: str) -> None:
    assert public(url) == url
    assert public("https://me:secret@example.org/simple") == "https://example.org/simple"


@pytest.mark.parametrize("password", ["secret", "s%2Fecret", "s@secret"])
def test_the_password_of_an_index_is_in_no_message(tmp_path: Path, password: str) -> None:
    page = b'<a href="/packages/demo-1.0.tar.gz">demo-1.0.tar.gz</a>'
    ok = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page)
    error = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    with answering(lambda path: [ok if path == "/simple/demo/" else error]) as url:
        index = PackageIndex(f"{url.replace('//', f'//me:{password}@')}simple/")
        (file,) = index.files("demo")
        for ask in (lambda: index.download(file, tmp_path / "file"), lambda: index.files("other")):
            with pytest.raises(PackageIndexError, match="500 Server Error") as caught:
                ask()
            assert "ecret" not in str(caught.value)
            assert f"url: {url}" in str(caught.value)
