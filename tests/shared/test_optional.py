"""`extra`: a missing package is named with the extra that installs it."""

from __future__ import annotations

from importlib import import_module

import pytest

from camfn import CamfnError
from camfn._shared.errors import LoadError
from camfn._shared.optional import extra


def test_a_missing_package_is_a_refusal_and_an_import_error() -> None:
    with pytest.raises(CamfnError, match=r"^a plot needs absent: pip install 'camfn\[cli\]'$") as caught:  # noqa: SIM117
        with extra("absent", "a plot"):
            import_module("camfn_absent")
    assert isinstance(caught.value, ImportError)


def test_the_extra_and_the_error_can_be_chosen() -> None:
    with pytest.raises(LoadError, match=r"pip install 'camfn\[hf\]'"), extra("x", "y", name="hf", error=LoadError):
        import_module("camfn_absent")


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), extra("x", "y"):
        raise ZeroDivisionError
