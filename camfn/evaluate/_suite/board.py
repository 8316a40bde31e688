"""What a folder gives to others: lines of a leaderboard, tables in LaTeX, and the sources of the tracks in BibTeX."""

# tested in tests/evaluate/suite/test_board.py

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ..._shared.errors import UsageError
from .._inputs.cases import method_and_options
from .._store.export import safe, write_file
from .._store.store import MAPS, Store
from .measures import GROUPED
from .protocol import TRACKS, is_grade
from .tables import tables_of

COLUMNS = (
    "protocol",
    "model",
    "layer",
    "method",
    "options",
    "track",
    "measure",
    "value",
    "low",
    "high",
    "n",
    "clusters",
    "forwards",
    "told_from_noise",
    "camfn",
    "commit",
    "by",
    "date",
    "maps_sha256",
)
"""Columns of a leaderboard: a line for each protocol, method, layer and measure."""


class Made(NamedTuple):
    """What a submitter says of a run.

    Attributes:
        by: who made it.
        date: when.
        commit: the commit of camfn that made it, where that was no released version.
    """

    by: str = ""
    date: str = ""
    commit: str = ""


NOTHING_SAID = Made()


def board_of(store: Store, made: Made = NOTHING_SAID) -> list[dict[str, str]]:
    """List the lines of a leaderboard; equal rows stand by themselves, so that a reader finds each method by its name.

    Args:
        store: a folder of the suite.
        made: what the submitter says of the run.
    """
    model = store.header["protocols"]["grid"]["record"]["model"]["spec"]
    digests = _digests(store)
    listed = []
    for table in tables_of(store):
        for line, figures in zip(table.lines, table.figures, strict=True):
            for name in line.names:
                method, options = method_and_options(name)
                for measure, figure in figures.items():
                    noise = table.gray.get(measure)
                    # units that came later have maps of their own: the sum of the earlier ones stays
                    part = "groupings" if measure in GROUPED else table.track
                    record = {
                        "protocol": table.id,
                        "model": model,
                        "layer": line.layer,
                        "method": method,
                        "options": options,
                        "track": table.track,
                        "measure": measure,
                        "value": f"{figure.value:.6g}",
                        "low": f"{figure.low:.6g}",
                        "high": f"{figure.high:.6g}",
                        "n": str(figure.n),
                        "clusters": str(figure.clusters),
                        "forwards": "" if line.control or line.forwards is None else f"{line.forwards:.4g}",
                        "told_from_noise": "" if noise is None else "no" if noise else "yes",
                        "camfn": store.header["versions"].get("camfn", ""),
                        **made._asdict(),
                        "maps_sha256": digests.get((part, name, line.layer), ""),
                    }
                    listed.append(record)
    return listed


def write_board(lines: Sequence[dict[str, str]], path: Path) -> None:
    """Write lines of a leaderboard; those of other protocols that the file has stay, those of the same are replaced.

    Raises:
        UsageError: the file is another table, which stays as it is.
    """
    own = {_key(line) for line in lines}
    kept = [line for line in read_board(path) if _key(line) not in own]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    every = sorted([*kept, *lines], key=lambda line: (line["protocol"], line["measure"], -float(line["value"])))
    numbers = ("value", "low", "high")
    writer.writerows({name: line[name] if name in numbers else safe(line[name]) for name in COLUMNS} for line in every)
    write_file(path, buffer.getvalue())


def read_board(path: Path) -> list[dict[str, str]]:
    """Read the lines of a leaderboard; none where there is no file, or an empty one.

    Raises:
        UsageError: the file is another table.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            # boards of earlier versions have no commit
            lines = [{"commit": "", **line} for line in reader]
            names = reader.fieldnames or COLUMNS
            ours = tuple(name for name in names if name != "commit") == tuple(n for n in COLUMNS if n != "commit")
        ours = ours and all(set(line) == set(COLUMNS) and math.isfinite(float(line["value"])) for line in lines)
    except (ValueError, TypeError, csv.Error):
        ours = False
    if not ours:
        raise UsageError(f"{path} is no leaderboard: expected a file that --board wrote, or a new name")
    return lines


def _key(line: dict[str, str]) -> tuple[str, ...]:
    """Return what no two lines have in common."""
    return tuple(line[name] for name in ("protocol", "method", "options", "layer", "measure"))


_PART_OF = {
    "gridpg": "grid",
    "dipart": "grid",
    "difull": "grid",
    "twin": "grid",
    "parts": "tiny",
    "questions": "contrast",
    "groupings": "groupings",
}


def _digests(store: Store) -> dict[tuple[str, str, str], str]:
    """Return the sha256 over the maps of each part of a run and method, in the order of the rows."""
    found: dict[tuple[str, str, str], list[bytes]] = {}
    for row in store.rows:
        kind = row.photo.partition("/")[0]
        file = store.folder / MAPS / row.map
        if row.map and not is_grade(row.photo) and file.is_file():
            digest = sha256(file.read_bytes()).digest()
            tracks = [_PART_OF[kind]] if kind in _PART_OF else ["tiny", "single", "groups", "ceiling"]
            for track in tracks:
                found.setdefault((track, row.method, row.layer), []).append(digest)
    return {key: sha256(b"".join(parts)).hexdigest() for key, parts in found.items()}


SOURCES: dict[str, tuple[str, ...]] = {
    "grid": ("rao2022better",),
    "tiny": ("hesse2023funnybirds", "choe2020evaluating"),
    "single": ("hesse2024benchmarking",),
    "groups": ("wu2024faithfulness", "bhatt2020evaluating"),
    "ceiling": ("trace2024",),
    "contrast": ("rfxg2025",),
    "grade": ("zheng2025ffidelity", "hedstrom2023meta"),
}
"""The papers that a track stands on."""

BIBTEX = {
    "rao2022better": r"""@inproceedings{rao2022better,
  title = {Towards Better Understanding Attribution Methods},
  author = {Rao, Sukrut and B{\"o}hle, Moritz and Schiele, Bernt},
  booktitle = {CVPR}, year = {2022}, eprint = {2205.10435}, archiveprefix = {arXiv}
}""",
    "hesse2023funnybirds": r"""@inproceedings{hesse2023funnybirds,
  title = {{FunnyBirds}: A Synthetic Vision Dataset for a Part-Based Analysis of Explainable {AI} Methods},
  author = {Hesse, Robin and Schaub-Meyer, Simone and Roth, Stefan},
  booktitle = {ICCV}, year = {2023}, eprint = {2308.06248}, archiveprefix = {arXiv}
}""",
    "choe2020evaluating": r"""@inproceedings{choe2020evaluating,
  title = {Evaluating Weakly Supervised Object Localization Methods Right},
  author = {Choe, Junsuk and Oh, Seong Joon and Lee, Seungho and Chun, Sanghyuk and Akata, Zeynep and Shim, Hyunjung},
  booktitle = {CVPR}, year = {2020}, eprint = {2001.07437}, archiveprefix = {arXiv}
}""",
    "hesse2024benchmarking": r"""@inproceedings{hesse2024benchmarking,
  title = {Benchmarking the Attribution Quality of Vision Models},
  author = {Hesse, Robin and Schaub-Meyer, Simone and Roth, Stefan},
  booktitle = {NeurIPS Datasets and Benchmarks}, year = {2024}, eprint = {2407.11910}, archiveprefix = {arXiv}
}""",
    "wu2024faithfulness": r"""@inproceedings{wu2024faithfulness,
  title = {On the Faithfulness of Vision Transformer Explanations},
  author = {Wu, Junyi and Kang, Weitai and Tang, Hao and Hong, Yuan and Yan, Yan},
  booktitle = {CVPR}, year = {2024}, eprint = {2404.01415}, archiveprefix = {arXiv}
}""",
    "bhatt2020evaluating": r"""@inproceedings{bhatt2020evaluating,
  title = {Evaluating and Aggregating Feature-based Model Explanations},
  author = {Bhatt, Umang and Weller, Adrian and Moura, Jos{\'e} M. F.},
  booktitle = {IJCAI}, year = {2020}, eprint = {2005.00631}, archiveprefix = {arXiv}
}""",
    "trace2024": r"""@inproceedings{trace2024,
  title = {Benchmarking Deletion Metrics with the Principled Explanations},
  author = {Wang, Yipei and Wang, Xiaoqian},
  booktitle = {ICML}, year = {2024}, url = {https://openreview.net/forum?id=SKPhvzxO1g}
}""",
    "rfxg2025": r"""@misc{rfxg2025,
  title = {Rethinking Saliency Maps: A Cognitive Human Aligned Taxonomy and Evaluation Framework for Explanations},
  author = {Elisha, Yehonatan and Cohen, Seffi and Barkan, Oren and Koenigstein, Noam},
  year = {2025}, eprint = {2511.13081}, archiveprefix = {arXiv}
}""",
    "zheng2025ffidelity": r"""@inproceedings{zheng2025ffidelity,
  title = {{F-Fidelity}: A Robust Framework for Faithfulness Evaluation of Explainable {AI}},
  author = {Zheng, Xu and Shirani, Farhad and Chen, Zhuomin and Lin, Chaohao and Cheng, Wei and Guo, Wenbo and
            Luo, Dongsheng},
  booktitle = {ICLR}, year = {2025}, eprint = {2410.02970}, archiveprefix = {arXiv}
}""",
    "hedstrom2023meta": r"""@article{hedstrom2023meta,
  title = {The Meta-Evaluation Problem in Explainable {AI}: Identifying Reliable Estimators with {MetaQuantus}},
  author = {Hedstr{\"o}m, Anna and Bommer, Philine and Wickstr{\o}m, Kristoffer K. and Samek, Wojciech and Lapuschkin,
            Sebastian and H{\"o}hne, Marina M.-C.},
  journal = {TMLR}, year = {2023}
}""",
}


def bibtex_of(tracks: Iterable[str]) -> str:
    """Write the sources of tracks in BibTeX.

    Example:
        >>> bibtex_of(["grid"]).splitlines()[0]
        '@inproceedings{rao2022better,'
    """
    wanted = [key for track in TRACKS if track in set(tracks) for key in SOURCES[track]]
    return "\n\n".join(BIBTEX[key] for key in dict.fromkeys(wanted)) + "\n"
