"""Make what ships anew: `python -m camfn.tiny cnn vit segmenter detector cnn-idsds`, and `digits`, the glyphs."""

from __future__ import annotations

import sys

from ._nets import NETS
from ._train import pack_digits, train

if __name__ == "__main__":
    for name in sys.argv[1:] or [*NETS]:
        if name == "digits":
            pack_digits()
        else:
            train(name)
