"""The form of our own signatures, read without the library, means what the library says it means."""

from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from infrastructure.http_signatures import covered_by_library, signature_headers
from infrastructure.plain_signatures import plain, signature_field

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DEVICE = UUID("00000000-0000-4000-8000-000000000001")
URL = "http://village.example:8000/v1/things"
TARGETS = st.sampled_from([URL, f"{URL}?page=7", "http://127.0.0.1:1/", "http://h/a//b/.", f"{URL}?"])
CHARACTERS = st.sampled_from('"\\ ,;=:()@?#%/+-_.aZ09\t\x7fé')
EDITS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 2), CHARACTERS), max_size=3)


def signed(url: str, body: bytes) -> dict[str, str]:
    headers = signature_headers("POST", url, device_id=DEVICE, key=KEY, body=body)
    return {name.lower(): value for name, value in headers.items()}


def edited(text: str, edits: list[tuple[int, int, str]]) -> str:
    """The text with characters put in, or in place of up to two others."""
    for at, replaced, character in edits:
        at %= len(text) + 1
        text = text[:at] + character + text[at + replaced :]
    return text


@given(TARGETS, st.sampled_from([b"", b"{}"]))
def test_what_our_agents_sign_is_plain(url: str, body: bytes) -> None:
    headers = signed(url, body)
    found = plain(headers)
    assert found is not None
    base = found.base("POST", url)
    assert base is not None
    KEY.public_key().verify(found.signature, base)
    assert {*covered_by_library("POST", url, headers, KEY.public_key())} == {*found.covered, "@signature-params"}


@given(TARGETS, st.sampled_from([b"", b"{}"]), EDITS, EDITS, EDITS)
@example(URL, b"{}", [(0, 0, "a")], [], [])
@example(URL, b"{}", [], [(30, 0, "_")], [])
@example(URL, b"{}", [], [], [(12, 1, "Z")])
def test_whatever_is_taken_for_plain_the_library_reads_alike(
    url: str,
    body: bytes,
    of_input: list[tuple[int, int, str]],
    of_url: list[tuple[int, int, str]],
    of_digest: list[tuple[int, int, str]],
) -> None:
    headers, url = signed(url, body), edited(url, of_url)
    headers["signature-input"] = edited(headers["signature-input"], of_input)
    if body:
        headers["content-digest"] = edited(headers["content-digest"], of_digest)
    found = plain(headers)
    base = found.base("POST", url) if found is not None else None
    if found is None or base is None:
        return
    headers["signature"] = signature_field(KEY.sign(base))
    covered = covered_by_library("POST", url, headers, KEY.public_key())
    assert {*covered} == {*found.covered, "@signature-params"}


def test_a_field_that_comes_twice_is_not_plain() -> None:
    class Twice(dict[str, str]):
        def items(self) -> list[tuple[str, str]]:  # type: ignore[override]
            return [*super().items(), ("signature", self["signature"])]

    assert plain(Twice(signed(URL, b""))) is None
