"""Evaluation of methods on photos: a folder of rows, a ranked table with intervals, a report, and the best case."""

from __future__ import annotations

from .._shared.optional import extra

with extra("Pillow", "camfn.evaluate", name="evaluate"):
    import PIL  # noqa: F401  # named here before a module asks for it

from ._cases import CAPPED as CAPPED
from ._cases import Case as Case
from ._cases import cases as cases
from ._cases import center as center
from ._core import Row as Row
from ._core import evaluate_photo as evaluate_photo
from ._measures import METRICS as METRICS
from ._measures import Metric as Metric
from ._own import metric as metric
from ._photos import Photo as Photo
from ._photos import Records as Records
from ._photos import builtin_photos as builtin_photos
from ._photos import read_photos as read_photos
from ._photos import read_records as read_records
from ._plots import write_ranks as write_ranks
from ._protocol import Protocol as Protocol
from ._rank import Ranking as Ranking
from ._rank import rank as rank
from ._rank import write_tables as write_tables
from ._records import write_table as write_table
from ._report import write_report as write_report
from ._run import run as run
from ._standing import Estimate as Estimate
from ._standing import Standing as Standing
from ._store import Store as Store
from ._tune import Tuned as Tuned
from ._tune import tune as tune
from ._versus import Difference as Difference
from ._versus import Friedman as Friedman
from ._versus import differences as differences
from ._versus import friedman as friedman
