"""The command line: `camfn explain`, `compare`, `factorize`, `evaluate`, `tune`, `table`, `methods`, `layers`.

A client of the public API; no mathematics.
"""

from __future__ import annotations

import sys
import warnings

from ._accidents import EXIT_CODE, report_accident


def main() -> None:
    """Run the command line; the entry point of the package."""
    # torch.func.jvp warns about torch's own use of torch.jit, which a user of the commands cannot change.
    warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
    try:
        from ._app import app

        app()
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("typer", "rich", "PIL"):
            print(f"camfn: the command line needs {error.name}: pip install 'camfn[cli]'", file=sys.stderr)
            raise SystemExit(2) from error
        report_accident(error)
        raise SystemExit(EXIT_CODE) from error
    except KeyboardInterrupt:  # while the libraries are loaded
        print("camfn: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        report_accident(error)
        raise SystemExit(EXIT_CODE) from error
