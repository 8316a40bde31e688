"""Parts of a web page that is one file: pictures as addresses, and the sources that its policy allows."""

# tested in tests/shared/test_embed.py

from __future__ import annotations

import base64
from hashlib import sha256


def data_address(data: bytes, kind: str) -> str:
    """Write a file as an address that holds it.

    Args:
        data: the bytes of the file.
        kind: its media type.

    Example:
        >>> data_address(b"GIF89a", "image/gif")
        'data:image/gif;base64,R0lGODlh'
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def policy_source(text: str) -> str:
    """Return the source of a content security policy that allows one inline element.

    Args:
        text: of the element, script or style.
    """
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def policy_of(script: str, style: str) -> str:
    """Return the policy of a page that runs its one script, has its one style and pictures in it, and loads nothing.

    Args:
        script: text of the script.
        style: text of the style.
    """
    sources = f"script-src {policy_source(script)}; style-src {policy_source(style)}"
    return f"default-src 'none'; img-src data:; {sources}; base-uri 'none'; form-action 'none'"
