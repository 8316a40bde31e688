"""Volumes in NIfTI as arrays of numbers, for networks of volumes."""

# tested in tests/photos/test_medical.py

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np

from .._shared.errors import MissingPackageError, PhotoError
from .._shared.optional import extra
from .read import bytes_of

ENDINGS = (".nii", ".nii.gz")
_MOST = 2**32
"""Bytes of a volume that is unpacked."""


def is_volume(path: Path) -> bool:
    """Say whether a file is a volume, by its ending."""
    return path.name.lower().endswith(ENDINGS)


def volume_or_error(path: Path) -> np.ndarray[Any, Any] | PhotoError:
    """Read a volume; return the error instead of raising it."""
    try:
        return read_volume(path)
    except PhotoError as error:
        return error


def read_volume(path: Path) -> np.ndarray[Any, Any]:
    """Read a volume, (X, Y, Z) in the order of the file, float32, scaled as its header says.

    Raises:
        PhotoError: the file is missing, damaged, or no volume of three dimensions.
        MissingPackageError: nibabel is not installed.
    """
    try:
        with extra("nibabel", "a NIfTI volume", name="medical"):
            import nibabel
        content = bytes_of(path)
        if content[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(content)) as packed:
                content = packed.read(_MOST)
        kind = nibabel.Nifti2Image if content[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
        values = np.asarray(kind.from_bytes(content).get_fdata(dtype=np.float32))
    except MissingPackageError:
        raise
    except Exception as error:
        raise PhotoError(f"cannot read the volume {path}: {' '.join(str(error).split()) or 'damaged'}") from error
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise PhotoError(f"cannot read the volume {path}: expected three dimensions, got {values.shape}")
    if not np.isfinite(values).all():
        raise PhotoError(f"cannot read the volume {path}: it has values that are not finite")
    return values
