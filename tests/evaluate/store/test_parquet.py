"""The rows as a Parquet file: what was measured, to the bit, and null where nothing was."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'camfn[evaluate]'")
pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")

from pyarrow import parquet
from typer.testing import CliRunner

from camfn._shared.errors import MissingPackageError, StoppedError
from camfn.cli._app import app
from camfn.evaluate import Photo, Row, Store
from camfn.evaluate._store.export import FIXED
from tests.evaluate.common import run_quickly

NAMES = ["=1.jpg", "a\nb", "a\r\nb", 'a"b', "\u00e9", "x" * 250, "\udcff.png"]


def stored(folder: Path, rows: list[Row], metrics: list[str]) -> Store:
    store = Store(folder, {"protocol": {"metrics": metrics, "seed": 0}})
    with store.writing():
        for row in rows:
            store.append(row)
    return store


def test_every_field_comes_back_as_it_is(tmp_path: Path) -> None:
    metrics = ["iou", "deletion", "never"]
    rows = [
        Row(
            name,
            "net auto cam",
            "last",
            target=i,
            probability=0.1 + i,
            values={"iou": 1 / 3 + i},
            vectors={"deletion": [0.1, 1e-300, float(i)]} if i % 2 else {},
            model="net",
        )
        for i, name in enumerate(NAMES)
    ]
    rows.append(Row("bad", "net auto cam", problem="no", kind="accident", tries=3, traceback="Traceback\n  x"))
    rows.append(Row("unreadable", problem="no photo", kind="refusal"))
    store = stored(tmp_path / "out", rows, metrics)
    store.to_parquet(tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.column_names == [*FIXED, "traceback", *metrics, "deletion.vector"]
    assert json.loads(table.schema.metadata[b"camfn"]) == store.header
    for row, found in zip(store.rows, table.to_pylist(), strict=True):
        assert found["photo"] == row.photo.encode("utf-8", "backslashreplace").decode()
        for name in ("case", "layer", "target", "probability", "problem", "kind", "tries", "traceback", "model"):
            assert found[name] == getattr(row, name)
        assert [found[name] for name in metrics] == [row.values.get(name) for name in metrics]
        assert found["deletion.vector"] == row.vectors.get("deletion")


def test_a_folder_without_rows_has_its_columns(tmp_path: Path) -> None:
    stored(tmp_path / "out", [], ["iou"]).to_parquet(tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.num_rows == 0
    assert str(table.schema.field("iou").type) == "double"


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    store = stored(tmp_path / "out", [Row("a", "c")], ["iou"])
    with pytest.raises(StoppedError, match=r"cannot write .*lost.*No such file"):
        store.to_parquet(tmp_path / "lost" / "rows.parquet")


def test_the_command_writes_the_rows_of_a_run(photos: list[Photo], tmp_path: Path) -> None:
    store = run_quickly(photos, tmp_path / "out")
    file = tmp_path / "rows.parquet"
    told = CliRunner().invoke(app, ["table", str(tmp_path / "out"), "--parquet", str(file)])
    assert told.exit_code == 0
    assert str(file) in told.output.replace("\n", "")
    found = parquet.read_table(file).to_pylist()
    assert [(row["photo"], row["case"]) for row in found] == [row.key for row in store.rows]
    assert [row["deletion"] for row in found] == [row.values.get("deletion") for row in store.rows]


def test_a_missing_package_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from camfn.cli._terminal.tables import TableOptions

    find = importlib.util.find_spec
    monkeypatch.setattr("camfn.evaluate._runs.needed.find_spec", lambda name: None if name == "pyarrow" else find(name))
    with pytest.raises(MissingPackageError, match=r"--parquet .* needs pyarrow .*pip install 'camfn\[evaluate\]'"):
        TableOptions(parquet=tmp_path / "rows.parquet").check()
