"""Output of the commands: progress bars, a line for each explanation, and errors in one line."""

# tested in tests/cli/test_accidents.py and test_transforms.py

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import rich  # noqa: F401  # its parts are imported on use; the import here names a missing package first
import typer

from ..._photos.reading import FIRST_FRAME, frames_told
from ..._shared.errors import CamfnError, StoppedError
from .._accidents import EXIT_CODE, report_accident, report_refusal
from .._options.options import ModelOptions

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from .._jobs.factorize import FactorizeJob
    from .._jobs.job import Job


def run_job(job: Job | FactorizeJob, told: Sequence[str] = ()) -> int:
    """Run a job and print a line for each explanation as soon as its files are written.

    Args:
        job: the photos, the model and the options of one command.
        told: problems that were printed before.

    Returns:
        The number of photos that could not be read and of maps that show nothing.
    """
    problems, announced = 0, False
    if getattr(job, "check", False):
        print("check: at most 15 maps and 41 forwards for each map, and a forward for each photo")
    with progress_bars() as progress:
        photos = progress.add_task("explaining", total=len(job.plans))
        job.progress = second_bar(progress, progress.add_task("perturbing", visible=False))
        several = False
        for record in progress.track(job.run(), total=len(job.plans), task_id=photos):
            if job.layer and not announced:
                for line in _told(job.header):
                    print(line)
                print(f"layer {job.layer.name}: {job.layer.reason}")
                announced = True
            problems += _print_record(record, job.out, told)
            if frames_told(record.get("read")) and not several and job.read_as.frame is None:
                print(FIRST_FRAME)
                several = True
    figure = getattr(job, "figure", None)
    if figure is not None and problems < len(job.plans):
        print(f"figure: {figure}")
    print(f"record of the run: {job.record_file}")
    return problems


def _told(header: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was decided about a model for which a user gave more than a name of the zoo."""
    about = header.get("about", {})
    asked = set(header) & set(ModelOptions._fields) - {"weights"}
    if asked or about.get("weights") not in (None, "the library's own", "random"):
        yield from (f"{key}: {about[key]}" for key in ("weights", "head", "photos", "classes") if key in about)


def progress_bars() -> Progress:
    """Make progress bars with the time left, which show on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # While a bar shows, rich replaces sys.stdout to keep printed lines and the bar apart. `print` writes to the
    # replacement, `typer.echo` would not. If stdout is a pipe or a file, rich must not replace it.
    redirect = sys.stdout.isatty()
    return Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=redirect
    )


def second_bar(progress: Progress, task: TaskID) -> Callable[..., None]:
    """Return a callback (done, total) for the bar of perturbed forwards, which shows only while they run."""
    last = 0

    def show_progress(done: int, total: int, *, engine: str = "") -> None:
        nonlocal last
        if done <= last:
            progress.reset(task)  # another method or photo begins, and the time starts at zero
        last = done if done < total else 0
        # folded and vmapped runs are the rule; a loop may take long, and the bar says so
        title = "perturbing one by one" if engine == "one by one" else "perturbing"
        progress.update(task, completed=done, total=total, visible=done < total, description=title)

    return show_progress


def _print_record(record: dict[str, Any], out: Path, told: Sequence[str]) -> int:
    """Print the explanations of one photo, and its problems on stderr; return the number of problems."""
    problems = [record["problem"]] if record["problem"] else []
    photo = f"{record['photo']}{frames_told(record.get('read'))}"
    if record.get("picture"):
        largest = max(record["concepts"], key=lambda concept: concept["share"])
        best = largest["classes"][0]["name"]
        print(f"{photo}: most of it {best} (concept {largest['concept']}): {out / record['picture']}")
    for explanation in record.get("explanations", ()):
        label = _label(explanation)
        if explanation["problem"]:
            whose = f" for {label}" if label else ""
            kept = "".join(f" The raw map is {out / name}." for name in explanation["files"][:1])
            signed = " --colormap seismic draws both signs." if "Look at it signed" in explanation["problem"] else ""
            problems.append(f"{photo}: no overlay{whose}: {explanation['problem']}{signed}{kept}")
        else:
            shown = explanation["overlay"] or next(iter(explanation["files"]), None)
            where = str(out / shown) if shown else ""
            print(": ".join(filter(None, [photo, label + _number(explanation), where])))
            if "check" in explanation:
                print(indent(explanation["check"]["table"], "  "))
    for problem in problems:
        if problem not in told:
            print(f"camfn: {problem}", file=sys.stderr)
    return len(problems)


def _label(explanation: dict[str, Any]) -> str:
    """Write what was explained; a method that explains no class has an empty label."""
    name, index = explanation["name"], explanation["index"]
    if index is None:
        return name or ""
    return f"{name} ({index})" if name else f"class {index}"


def _number(explanation: dict[str, Any]) -> str:
    """Write the probability of a class, or the score of another target."""
    for key in ("probability", "score"):
        if explanation[key] is not None:
            return f", {key} {explanation[key]:.3g}"
    return ""


@contextmanager
def refusals() -> Iterator[None]:
    """Turn an exception into one line and an exit code: 2 for a refusal, 130 for an interruption, 70 for the rest."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("camfn: interrupted; what was written is whole", err=True)
        raise typer.Exit(130) from None
    except (CamfnError, StoppedError) as error:
        report_refusal(error)
        raise typer.Exit(2 if isinstance(error, CamfnError) else EXIT_CODE) from error
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError, ModuleNotFoundError):
        raise  # typer ends the first four in its own way, and `main` the last
    except Exception as error:
        report_accident(error)
        raise typer.Exit(EXIT_CODE) from error
