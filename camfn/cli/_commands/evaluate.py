"""The commands `camfn evaluate` and `camfn tune`, and what they print."""

# tested in tests/evaluate/test_command.py

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._options.command import DeviceOption, app
from .._options.options import AS_THEY_ARE, NO_OPTIONS, ModelOptions, ReadOptions, option_groups
from .._terminal.tables import (
    AS_USUAL,
    ByOption,
    LatexOption,
    MarkdownOption,
    TableOptions,
    print_table,
    sentence_of,
    show_tables,
    write_grids,
    write_rows,
)
from .._terminal.terminal import progress_bars, refusals
from .suite import NO_SUITE, Given, SuiteOptions, run_suite

if TYPE_CHECKING:
    from ...evaluate import Photo, Protocol, Store, Tuned


_SHOWN = 20
"""Refused records, and different problems, that are printed."""


class RemovedOption(str, Enum):
    """The value of removed pixels."""

    mean = "mean"
    black = "black"


class EngineOption(str, Enum):
    """The engine that runs the work."""

    local = "local"
    ray = "ray"


PhotosArgument = Annotated[
    str,
    typer.Argument(
        metavar="[PHOTOS]",
        help="A folder of CLASS/PHOTO.jpg, a CSV with path and class (and x0, y0, x1, y1), COCO's JSON, or builtin.",
    ),
]
MethodsOption = Annotated[
    str,
    typer.Option(
        "--methods",
        help="Separated by commas: names with options as in score_cam:top_k=0.1|0.2, file.py:function, or cheap, all, "
        "capped, attention.",
    ),
]
LayersOption = Annotated[str, typer.Option("--layers", help="Dotted names separated by commas, or auto.")]
TargetChoice = Annotated[
    str, typer.Option(help="label, the photo's class; or words as of explain, such as top or contrast:label.")
]
RemovedChoice = Annotated[RemovedOption, typer.Option(help="What removed pixels become.", case_sensitive=False)]
StepOption = Annotated[float, typer.Option(help="Of insertion and deletion, as a share of the pixels.")]
SeedOption = Annotated[int, typer.Option(help="Of everything that is drawn.")]
EngineChoice = Annotated[EngineOption, typer.Option(help="ray needs camfn[ray].", case_sensitive=False)]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Processes, or with ray actors. [default: one a device]", show_default=False)
]
ChunkOption = Annotated[int, typer.Option(min=1, help="Perturbed forwards at a time.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Throw away the results there.")]
RetryOption = Annotated[
    bool, typer.Option("--retry", help="Try rows with a refusal, and accidents that were tried three times, again.")
]
FailFastOption = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first refusal or accident.")]


@app.command()
@option_groups
def evaluate(
    context: typer.Context,
    photos: PhotosArgument = "builtin",
    out: Annotated[Path, typer.Option(help="Folder of the results; the same again goes on where it was left.")] = Path(
        "evaluation"
    ),
    models: Annotated[str, typer.Option("--models", help="Separated by commas, as for explain.")] = "lite0",
    options: ModelOptions = NO_OPTIONS,
    reading: ReadOptions = AS_THEY_ARE,
    methods: MethodsOption = "cheap",
    layers: LayersOption = "auto",
    suite: SuiteOptions = NO_SUITE,
    metrics: Annotated[
        str, typer.Option(help="Separated by commas: names, file.py:function:better=lower, or all.")
    ] = "all",
    by: ByOption = None,
    shown: TableOptions = AS_USUAL,
    target: TargetChoice = "label",
    removed: RemovedChoice = RemovedOption.mean,
    step: StepOption = 0.05,
    infidelity_samples: Annotated[int, typer.Option(min=1, help="Of infidelity.")] = 20,
    budget: Annotated[int, typer.Option(min=0, help="Forwards a metric may spend on explaining again.")] = 400,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    chunk_size: ChunkOption = 16,
    engine: EngineChoice = EngineOption.local,
    workers: WorkersOption = None,
    force: ForceOption = False,
    retry: RetryOption = False,
    fail_fast: FailFastOption = False,
) -> None:
    """Evaluate methods on photos: models x methods x layers x metrics, a ranked table and a report.

        camfn evaluate photos.csv --models torchvision:resnet50 --methods "grad_cam, layer_cam" --out results

    `camfn table results` shows the tables again, by another metric or in LaTeX.

    Each row is on the disk before the next begins. Called again with the same folder, after an interruption or with
    more photos, models or methods, the command measures the missing rows alone; a row that an accident spoiled is
    tried three times. Writes results.sqlite, rows.csv, the raw maps as maps/PHOTO.METHOD.LAYER.npy, table-MODEL.csv
    with bootstrap intervals, and report.html; tracebacks of accidents are in accidents.txt.

    Ends with 0 if all went well; with 1 if a record or a photo could not be read or a case has a problem, the others
    kept; with 2, before any long work, if the command cannot do what its options say; with 130 if you interrupt it;
    with 70 after a bug, an accident that ends the run, such as a full disk, or a stop by --fail-fast.

    --suite truth measures other things: tracks whose right answer is known, and a grade for every metric. Each model
    has a folder in --out, which `camfn suite verify` recomputes. Without PHOTOS, models tiny:NAME see scenes.
    """
    with refusals():
        from ..._shared.lists import split_list
        from ...evaluate import cases, run, write_report, write_tables
        from ...evaluate._runs.needed import require
        from .._files.records import command_again
        from .._options.options import pick_device

        place, loader = str(pick_device(device)), options.loader(split_list(models, "models"))
        settings: dict[str, Any] = {"device": place, "engine": engine.value, "workers": workers, "force": force}
        settings |= {"retry": retry, "fail_fast": fail_fast}
        own = (target, removed, step, infidelity_samples, budget, by)
        usual = own == ("label", RemovedOption.mean, 0.05, 20, 400, None)
        if suite.asked(usual and not any(shown._replace(latex=None, markdown=None)) and not any(reading)):
            drawn = {"seed": seed, "chunk_size": chunk_size}
            given = Given(photos, models, methods, layers, metrics, out, shown.latex, shown.markdown)
            raise typer.Exit(1 if run_suite(suite, given, drawn, **loader, **settings) else 0)
        require("jinja2", "camfn evaluate", "its report")
        require("matplotlib", "camfn evaluate", "its report")
        protocol = _protocol(
            metrics,
            target,
            removed,
            step=step,
            infidelity_samples=infidelity_samples,
            budget=budget,
            seed=seed,
            chunk_size=chunk_size,
        )
        _check_ranking(protocol, by)
        photo_list, refused = _read(photos, reading)
        case_list = cases(models, methods, layers)
        shown.check([str(case) for case in case_list], list(dict.fromkeys(case.model for case in case_list)))
        store = _run_with_bar(
            "evaluating",
            lambda progress: run(
                photo_list, case_list, out, protocol=protocol, progress=progress, **loader, **settings
            ),
        )
        rows = write_rows(store, shown)
        written, problems = show_tables(store.rows, shown, by=by, seed=seed)
        tables = write_tables(store, by=by)
        report = write_report(store, photo_list, by=by, command=command_again(context, photos), **loader)
        for path in [*rows, *written, *tables, report]:
            print(path)
        problems += _print_problems(store) + len(refused)
        _print_refused(refused)
    raise typer.Exit(1 if problems else 0)


@app.command()
@option_groups
def tune(
    photos: PhotosArgument = "builtin",
    metric: Annotated[str, typer.Option(help="The metric to do well on.")] = "energy_in_box",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("tuning"),
    model: Annotated[str, typer.Option("--model", help="As for explain.")] = "lite0",
    options: ModelOptions = NO_OPTIONS,
    reading: ReadOptions = AS_THEY_ARE,
    methods: MethodsOption = "cheap, score_cam:top_k=0.02|0.05",
    layers: LayersOption = "auto",
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the photos that is held out.")] = 0.5,
    latex: LatexOption = None,
    markdown: MarkdownOption = None,
    target: TargetChoice = "label",
    removed: RemovedChoice = RemovedOption.mean,
    step: StepOption = 0.05,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    chunk_size: ChunkOption = 16,
    engine: EngineChoice = EngineOption.local,
    workers: WorkersOption = None,
    force: ForceOption = False,
    retry: RetryOption = False,
    fail_fast: FailFastOption = False,
) -> None:
    """Pick the layer, method and options that do best on a metric, and say what they do on photos kept apart.

        camfn tune photos.csv --metric insertion --methods "cheap, score_cam:top_k=0.02|0.1" --layers "auto, blocks.6"

    On the photos kept apart the choice stands against grad_cam at the suggested layer and against two baselines that
    ask no network: better, worse, or not told apart.

    Values separated by | are tried one after the other, as in 'score_cam:top_k=0.02|0.1'.
    """
    with refusals():
        from ...evaluate import cases
        from ...evaluate import tune as tuned
        from .._options.options import pick_device

        TableOptions(latex=latex, markdown=markdown).check()
        place, loader = str(pick_device(device)), options.loader([model])
        protocol = _protocol(metric, target, removed, step=step, seed=seed, chunk_size=chunk_size)
        photo_list, refused = _read(photos, reading)
        case_list = cases([model], methods, layers)
        settings: dict[str, Any] = {"device": place, "engine": engine.value, "workers": workers, "force": force}
        settings |= {"retry": retry, "fail_fast": fail_fast}
        best = _run_with_bar(
            "tuning",
            lambda progress: tuned(
                photo_list,
                case_list,
                metric,
                out,
                share=share,
                protocol=protocol,
                progress=progress,
                **loader,
                **settings,
            ),
        )
        print("to choose with:")
        print_table(best.tuning)
        print()
        written = write_grids(best.grids(), latex, markdown)
    _print_refused(refused)
    _print_choice(best, metric)
    for path in written:
        print(path)


def _print_choice(best: Tuned, metric: str) -> None:
    """Print the best case, and what it does on the photos held out beside the default and the baselines."""
    from ...evaluate._tables.standing import method_in
    from ...evaluate._tables.table import too_few

    held = best.held_out
    print(f"best: {best.case}")
    print(f"on {held.photos} photos held out: {metric} {held.value:.3f} [{held.low:.3f}, {held.high:.3f}]")
    for difference in best.against:
        print(f"  {sentence_of(difference, method_in(difference.second, best.case.model))}")
    if str(best.case) == f"{best.case.model} auto grad_cam":
        print("  it is grad_cam at the suggested layer, the default")
    for line in too_few(held.photos, len(best.against)):
        print(f"  {line}")


def _read(source: str, reading: ReadOptions) -> tuple[list[Photo], list[str]]:
    """Read the photos of a source; return them, and a line for each refused record.

    Prints which frame of files with several is read.
    """
    from ..._photos.reading import FIRST_FRAME
    from ...evaluate import read_records
    from ...evaluate._inputs.frames import frames_of

    found = read_records(source)
    photos = [photo._replace(read_as=reading.read_as()) for photo in found.photos]
    if several := frames_of(photos):
        more = [f"and {len(several) - _SHOWN} other files of several frames"] if len(several) > _SHOWN else []
        of_first = [FIRST_FRAME] if reading.frame is None else []
        print("\n".join([*several[:_SHOWN], *more, *of_first]))
    return photos, found.refused


def _print_refused(refused: Sequence[str]) -> None:
    """Print the records that `read_records` refused, with their count, on stderr."""
    for line in refused[:_SHOWN]:
        print(f"camfn: {line}", file=sys.stderr)
    if refused:
        more = f", of which {_SHOWN} are shown" if len(refused) > _SHOWN else ""
        print(f"camfn: {len(refused)} record{'s' * (len(refused) > 1)} refused{more}", file=sys.stderr)


def _protocol(metrics: str, target: str, removed: RemovedOption, **settings: Any) -> Protocol:
    """Make the protocol of the options, and check the names of its metrics."""
    from ..._shared.lists import split_list
    from ...evaluate import Protocol
    from ...evaluate._measures.own import measured

    names = None if metrics == "all" else tuple(split_list(metrics, "metrics"))
    protocol = Protocol(metrics=names, target=target, removed=removed.value, **settings)
    measured(protocol)
    return protocol


def _check_ranking(protocol: Protocol, by: str | None) -> None:
    """Check that the methods can be ranked by the metric `by`."""
    from ...evaluate._measures.own import measured
    from ...evaluate._tables.rank import lead_of

    lead_of(measured(protocol), by)


def _run_with_bar(title: str, work: Callable[[Callable[[int, int], None]], Any]) -> Any:
    """Call `work` with a callback (done, total) that moves a progress bar."""
    with progress_bars() as progress:
        task = progress.add_task(title, total=None)
        return work(lambda done, total: progress.update(task, completed=done, total=total))


def _print_problems(store: Store) -> int:
    """Print each different problem of the rows once, and how many rows hold a refusal or an accident, on stderr.

    Returns:
        The number of different problems.
    """
    counts = Counter(row.problem for row in store.rows if row.problem)
    for problem, count in counts.most_common(_SHOWN):
        print(f"camfn: {problem}{f' ({count} rows)' if count > 1 else ''}", file=sys.stderr)
    if len(counts) > _SHOWN:
        print(f"camfn: and {len(counts) - _SHOWN} other problems: see {store.folder / 'rows.csv'}", file=sys.stderr)
    kinds = Counter(row.kind for row in store.rows)
    unreadable = sum(not row.case for row in store.rows)
    told = [
        f"{unreadable} photo{'s' * (unreadable != 1)} unreadable" if unreadable else "",
        _counted(sum(row.kind == "refusal" and bool(row.case) for row in store.rows), "refused"),
        _counted(kinds["accident"], f"spoiled by an accident: {store.folder / 'accidents.txt'} has the tracebacks"),
    ]
    if any(told):
        print(f"camfn: of {len(store.rows)} rows: {'; '.join(filter(None, told))}", file=sys.stderr)
    return len(counts)


def _counted(number: int, words: str) -> str:
    """Write a number with words; empty for none."""
    return f"{number} {words}" if number else ""
