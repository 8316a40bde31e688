"""Pictures as addresses, and the sources of a policy."""

from __future__ import annotations

import base64
import hashlib

from camfn._shared.embed import data_address, policy_of, policy_source


def test_an_address_holds_the_file() -> None:
    kind, _, held = data_address(b"\x00\xff", "image/png").partition(";base64,")
    assert (kind, base64.b64decode(held)) == ("data:image/png", b"\x00\xff")


def test_a_policy_names_the_hash_of_the_text() -> None:
    held = policy_source("é").strip("'").removeprefix("sha256-")
    assert base64.b64decode(held) == hashlib.sha256("é".encode()).digest()


def test_a_policy_allows_one_script_and_one_style_and_loads_nothing() -> None:
    parts = dict(part.split(" ", 1) for part in policy_of("run()", "p {}").split("; "))
    assert parts.pop("script-src") == policy_source("run()")
    assert parts.pop("style-src") == policy_source("p {}")
    assert parts.pop("img-src") == "data:"
    assert parts == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}
