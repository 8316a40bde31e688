"""The check of a map: whether it may be believed, in numbers and in words."""

from .check import check as check
from .result import Checked as Checked
from .words import Line as Line
