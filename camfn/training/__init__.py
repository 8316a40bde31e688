"""Maps of a few fixed photos while a network trains: a strip per photo, and how far each map moved."""

from ._record import Record as Record
from ._recorder import MapRecorder as MapRecorder

__all__ = ["MapRecorder", "Record"]
