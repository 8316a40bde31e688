"""Pictures of any kind in, tensors (3, H, W) in [0, 1] out."""

from __future__ import annotations

import io
from collections.abc import Callable
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import torch
from torch import Tensor

from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.files import reason_of
from .._shared.optional import extra
from ._checks import as_photo

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    Picture: TypeAlias = Union[Tensor, NDArray[Any], Image, bytes, str, PathLike[str]]  # noqa: UP007
    """One picture: a tensor (3, H, W), an array (H, W, 3), a PIL image, an encoded file, or the path of one."""

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""What a file may be: kinds that Pillow decodes by itself."""


def read(picture: Picture) -> Tensor:
    """Read a picture of any kind as a tensor, upright and in RGB.

    Args:
        picture: a tensor (3, H, W), or (1, 3, H, W), (1, H, W) and (H, W) in gray; an array (H, W, 3), or (H, W, 1) and
            (H, W) in gray; both uint8, bool, or floats in [0, 1]. A PIL image; the bytes of a file, such as a PNG or a
            JPEG; a path. Transparent places become white, of several frames the first is read, and a camera's
            orientation is undone. Arrays of OpenCV have blue first: pass `array[..., ::-1]`.

    Returns:
        (3, H, W) in [0, 1]: device and dtype of a tensor of floats, otherwise float32.

    Raises:
        CamfnError: no picture, or one of deep gray values, which have no one range; the message names the call to make
            first.
        ImportError: a PIL image, bytes or a path, and Pillow is missing.

    Example:
        >>> import numpy as np
        >>> from camfn.image import read, to_bytes
        >>> red = np.zeros((2, 4, 3), "uint8"); red[..., 0] = 255
        >>> read(red).shape
        torch.Size([3, 2, 4])
        >>> read(to_bytes(red, "png"))[:, 0, 0]
        tensor([1., 0., 0.])
    """
    if isinstance(picture, Tensor):
        return _of_tensor(picture)
    if isinstance(picture, np.ndarray):
        return _of_array(picture)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        data = bytes(picture)
        return _of_pil(_opened(lambda: io.BytesIO(data), "these bytes"))
    if isinstance(picture, (str, PathLike)):
        return _of_pil(_opened(lambda: open(picture, "rb"), repr(fspath(picture))))
    if type(picture).__module__.split(".")[0] == "PIL":
        return _of_pil(picture)
    raise ArgumentTypeError(
        "picture: expected a tensor (3, H, W), an array (H, W, 3), a PIL image, the bytes of a file or a path, got "
        f"{describe(picture)}; several pictures: image.montage(pictures)"
    )


def _of_tensor(picture: Tensor) -> Tensor:
    """Read a tensor: gray ones are spread over three channels."""
    one = picture[0] if picture.ndim == 4 and len(picture) == 1 else picture
    if one.dtype == torch.bool:
        one = one.float()
    if one.ndim == 2 or (one.ndim == 3 and one.shape[0] == 1):
        one = one.expand(3, *one.shape[-2:])
    return as_photo(one, "picture")


def _of_array(picture: NDArray[Any]) -> Tensor:
    """Read an array: height, width, and then the channels."""
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] not in (1, 3)):
        raise CamfnError(
            f"picture: expected an array (H, W, 3) or (H, W), got {picture.shape}{_array_advice(picture.shape)}"
        )
    if picture.dtype != np.uint8 and (picture.dtype.kind not in "bf" or picture.dtype.itemsize > 8):
        raise ArgumentTypeError(
            f"picture: expected an array of uint8, bool or floats in [0, 1], got {picture.dtype}; scale it first, as "
            "picture / 65535 for 16 bits"
        )
    # a copy: of strides that torch does not take, and of arrays that may not be written to
    whole = picture if picture.ndim == 3 else picture[..., None]
    found = torch.from_numpy(np.array(whole, picture.dtype.newbyteorder("="), order="C"))
    return _of_tensor(found.permute(2, 0, 1))


def _array_advice(shape: tuple[int, ...]) -> str:
    """Return the call that corrects the shape of an array, if the shape is a common one."""
    if len(shape) == 3 and shape[0] in (1, 3):
        return "; channels first: picture.transpose(1, 2, 0)"
    if len(shape) == 3 and shape[2] == 4:
        return "; without its alpha channel: picture[..., :3]"
    return "; one of a batch: picture[0]" if len(shape) == 4 else ""


def _opened(file: Callable[[], Any], name: str) -> Image:
    """Decode a file by Pillow, upright; an error says why it is no picture."""
    with extra("Pillow", "image.read"):
        from PIL import Image, ImageOps, UnidentifiedImageError

    Image.init()
    try:
        with file() as content, Image.open(content, formats=[one for one in _FORMATS if one in Image.OPEN]) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise CamfnError(
            f"picture: {name} is no picture that Pillow decodes: expected one of {', '.join(_FORMATS)}"
        ) from error
    # decoders raise what they like: SyntaxError (PNG), RuntimeError (AVIF), NotImplementedError
    except Exception as error:
        raise CamfnError(
            f"picture: expected a file with a picture, but cannot read {name}: {reason_of(error)}"
        ) from error


def _of_pil(picture: Any) -> Tensor:
    """Read a PIL image; transparent places become white."""
    with extra("Pillow", "image.read"):
        from PIL import Image

    if picture.mode == "F" or picture.mode.startswith("I"):
        raise CamfnError(
            f"picture: expected 8 bits, got a PIL image of mode {picture.mode!r}, whose values have no one range; say "
            "it: numpy.asarray(picture) / 65535"
        )
    if picture.has_transparency_data:
        above = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return _of_array(np.asarray(picture.convert("RGB")))
