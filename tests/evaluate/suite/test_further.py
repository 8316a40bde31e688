"""Whether a network was trained further on pictures without one cell: the record, the table and `verify` say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from camfn._shared.errors import UsageError
from camfn.evaluate import Store, Suite, tables, truth, verify
from camfn.evaluate._store import database
from camfn.evaluate._suite.protocol import id_of
from camfn.zoo import Loaded, load

FEW = Suite(tracks=("single",), scenes=2, measured=2)
WHERE = "only where each was trained further on pictures without one cell; this one"


def models_of(store: Store) -> list[dict[str, Any]]:
    return [each["record"]["model"] for each in store.header["protocols"].values()]


def shown(store: Store) -> str:
    return " ".join(str(tables(store)).split())


def test_a_network_that_was_not_has_the_record_that_it_had(tmp_path: Path) -> None:
    (store,) = truth("tiny:cnn", "grad_cam", tmp_path, suite=FEW)
    assert all(set(model) == {"spec", "weights"} for model in models_of(store))
    assert f"{WHERE} was not." in shown(store)


def test_the_record_and_the_table_say_how(tmp_path: Path) -> None:
    (store,) = truth("tiny:cnn-idsds", "grad_cam", tmp_path, suite=FEW)
    said = "150 steps; half of each batch lost one cell of 4 x 4, its label kept"
    assert all(model["trained_further"] == said for model in models_of(store))
    assert f"{WHERE} was trained further: {said}." in shown(store)
    assert not verify(tmp_path)[0].problems


def test_a_network_of_ones_own_says_it(tmp_path: Path) -> None:
    """The attribute outlives `load` of a function's network."""
    file = tmp_path / "nets.py"
    body = "    loaded.model.trained_further = 'mine'\n    return loaded\n"
    file.write_text(f"from camfn.zoo import load\n\n\ndef build():\n    loaded = load('tiny:cnn')\n{body}")
    (store,) = truth(f"{file}:build", "grad_cam", tmp_path / "out", photos="tiny", suite=FEW)
    assert {model["trained_further"] for model in models_of(store)} == {"mine"}
    assert f"{WHERE} was trained further: mine." in shown(store)


def test_a_record_that_says_otherwise_is_named(tmp_path: Path) -> None:
    """Its ids are those of its records: the network itself says what it is."""
    truth("tiny:cnn", "grad_cam", tmp_path, suite=FEW)
    with database.opened(tmp_path / "tiny-cnn" / "results.sqlite") as connection:
        (text,) = connection.execute("SELECT content FROM header WHERE name = 'protocols'").fetchone()
        protocols = json.loads(text)
        for each in protocols.values():
            each["record"]["model"]["trained_further"] = "300 steps"
            each["id"] = id_of(each["record"])
        connection.execute("UPDATE header SET content = ? WHERE name = 'protocols'", [json.dumps(protocols)])
    (found,) = verify(tmp_path)
    assert "tiny:cnn: trained_further is None, and the record says '300 steps'" in found.problems


@pytest.mark.parametrize("said", [True, " ", 150])
def test_what_is_no_words_is_refused(tmp_path: Path, said: object) -> None:
    def loader(spec: str) -> Loaded:
        loaded = load("tiny:cnn")
        vars(loaded.model)["trained_further"] = said
        return loaded

    with pytest.raises(UsageError, match=r"trained_further: expected words, as in model\.trained_further = "):
        truth("tiny:cnn", "grad_cam", tmp_path, suite=FEW, loader=loader)
