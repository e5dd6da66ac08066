"""The page's files: served as they are, under a strict policy, and known to the byte."""

import hashlib
import re
from pathlib import Path

import graphql
import httpx2
from strawberry.printer import print_schema

import api.dashboard
import api.device_registry
import api.federated_learning
import api.harvest
import api.log
import api.marketplace
import api.tokenomics
from api.schema import build_schema

from .site import Site

FOLDER = Path(api.dashboard.__file__).parent
MODULES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.js"))


def test_every_file_of_the_page_is_open_and_strictly_typed(site: Site) -> None:
    with httpx2.Client(base_url=site.url, timeout=60) as client:
        for path, kind in {
            "/": "text/html",
            "/dashboard/style.css": "text/css",
            "/dashboard/icon.svg": "image/svg+xml",
        }.items():
            _check_file(client, path, kind)
        for module in MODULES:
            _check_file(client, f"/dashboard/{module}", "text/javascript")


def _check_file(client: httpx2.Client, path: str, kind: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, path
    assert answer.headers["content-type"].split(";")[0] == kind
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in answer.headers["content-security-policy"]
    again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head(path).headers["etag"] == answer.headers["etag"]


def test_nothing_else_of_the_folder_or_beyond_is_served(site: Site) -> None:
    for path in (
        "",
        "__init__.py",
        "vendor/README.md",
        "..%2f..%2fpyproject.toml",
        "../../pyproject.toml",
        "nothing.js",
    ):
        assert httpx2.get(f"{site.url}/dashboard/{path}").status_code == 404, path


def test_vendored_files_are_the_listed_ones_and_carry_their_licences() -> None:
    listed = dict(
        re.findall(r"^\| (\S+\.\w+) \|.*`([0-9a-f]{64})` \|$", (FOLDER / "vendor/README.md").read_text(), re.M)
    )
    kept = {path.name for path in (FOLDER / "vendor").iterdir() if path.suffix in (".js", ".css")}
    assert set(listed) == kept
    for name, digest in listed.items():
        assert hashlib.sha256((FOLDER / "vendor" / name).read_bytes()).hexdigest() == digest, name
    licences = {path.name for path in (FOLDER / "vendor").glob("LICENSE-*")}
    assert {text.partition("-")[2].partition(".")[0] for text in licences} == {"htm", "preact", "uplot", "graphql-ws"}


def test_no_file_of_the_page_names_another_host_or_needs_an_inline_script() -> None:
    for path in [
        FOLDER / "index.html",
        FOLDER / "style.css",
        *(FOLDER / name for name in MODULES if "vendor" not in name),
    ]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text.replace("://${location.host}", ""), path
        assert not re.search(r"<script(?![^>]* src=)|\son\w+=\"|style=\"", text), path


def test_every_document_of_the_page_is_valid_against_the_schema() -> None:
    contexts = [api.device_registry, api.federated_learning, api.harvest, api.marketplace, api.tokenomics]
    schema = graphql.build_schema(print_schema(build_schema((api.log, *contexts))))
    documents = re.findall(r"`((?:query|subscription) .*?)`;", (FOLDER / "documents.js").read_text(), re.S)
    assert len(documents) == 12
    for document in documents:
        assert graphql.validate(schema, graphql.parse(document)) == [], document
