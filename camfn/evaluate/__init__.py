"""Evaluation of methods on photos: a folder of rows, a ranked table with intervals, a report, and the best case."""

from __future__ import annotations

from .._shared.optional import extra

with extra("Pillow", "camfn.evaluate", name="evaluate"):
    import PIL  # noqa: F401  # named here before a module asks for it

from ._inputs.cases import CAPPED as CAPPED
from ._inputs.cases import Case as Case
from ._inputs.cases import cases as cases
from ._inputs.cases import center as center
from ._inputs.photos import builtin_photos as builtin_photos
from ._inputs.photos import Photo as Photo
from ._inputs.photos import read_photos as read_photos
from ._inputs.photos import read_records as read_records
from ._inputs.photos import Records as Records
from ._inputs.protocol import Protocol as Protocol
from ._measures.core import evaluate_photo as evaluate_photo
from ._measures.memo import Shared as Shared
from ._measures.metrics import Metric as Metric
from ._measures.metrics import METRICS as METRICS
from ._measures.own import metric as metric
from ._measures.row import Row as Row
from ._store.store import Store as Store
from ._runs.run import run as run
from ._suite.protocol import Suite as Suite
from ._suite.shown import Submissions as Submissions
from ._suite.shown import Tables as Tables
from ._suite.shown import tables as tables
from ._suite.suite import truth as truth
from ._suite.verify import Verified as Verified
from ._suite.verify import verify as verify
from ._tables.plots import write_ranks as write_ranks
from ._tables.rank import rank as rank
from ._tables.rank import Ranking as Ranking
from ._tables.rank import write_tables as write_tables
from ._tables.records import write_table as write_table
from ._tables.report import write_report as write_report
from ._tables.standing import Estimate as Estimate
from ._tables.standing import Standing as Standing
from ._tables.difference import Difference as Difference
from ._tables.versus import Differences as Differences
from ._tables.versus import differences as differences
from ._tables.versus import Friedman as Friedman
from ._tables.versus import friedman as friedman
from ._tune import tune as tune
from ._tune import Tuned as Tuned
