"""What `read_photo` decided: the frame and the window of gray values. It travels with the picture."""

# tested in tests/photos/test_read.py and test_medical.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

_KEY = "camfn reading"
"""Key of `Image.info`, which holds what decoders say of an image."""


FIRST_FRAME = "of several frames the first is explained: --frame N takes another"
"""Said once a run."""


class Reading(NamedTuple):
    """How `read_photo` read a photo.

    Attributes:
        frame: the frame that the picture shows, counted from 1.
        frames: the number of frames in the file; None where the others are damaged.
        window: the gray values of black and white, (low, high); None for photos of 8 bits, and where a table of the
            file decides.
        window_reason: where the window comes from; None where nothing was decided.
    """

    frame: int = 1
    frames: int | None = 1
    window: tuple[float, float] | None = None
    window_reason: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the part of a record, for JSON."""
        return self._asdict() | {"window": self.window and list(self.window)}


def reading_of(photo: Any) -> Reading:
    """Return how `read_photo` read a picture; the defaults for one that it did not make."""
    found = getattr(photo, "info", {}).get(_KEY)
    return found if isinstance(found, Reading) else Reading()  # a text in a PNG may have any key


def noted(photo: Image.Image, **facts: Any) -> Image.Image:
    """Add to what is known of a picture, and return the picture."""
    photo.info[_KEY] = reading_of(photo)._replace(**facts)
    return photo


def frames_told(read: dict[str, Any] | None) -> str:
    """Write which of several frames a photo's record says; empty for one frame."""
    if not read or read["frames"] == 1:
        return ""
    return f", frame {read['frame']} of {read['frames'] or 'several, damaged ones'}"
