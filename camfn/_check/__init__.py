"""The check of a map: whether it may be believed, in numbers and in words."""

from .check import Checked as Checked
from .check import check as check
from .words import Line as Line
