"""What commands print: bars with the time left, what came of each photo, and refusals in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from .._shared.errors import CamfnError
from ._accidents import EXIT_CODE, report_accident

if TYPE_CHECKING:
    from ._factorize_job import FactorizeJob
    from ._job import Job


def run_job(job: Job | FactorizeJob) -> int:
    """Run a job, printing as it goes; count the photos and maps that came out useless."""
    problems, announced = 0, False
    with progress_bars() as progress:
        photos = progress.add_task("explaining", total=len(job.plans))
        job.progress = second_bar(progress, progress.add_task("perturbing", visible=False))
        for record in progress.track(job.run(), total=len(job.plans), task_id=photos):
            if job.layer and not announced:
                print(f"layer {job.layer.name}: {job.layer.reason}")
                announced = True
            problems += _show(record, job.out)
    print(f"record of the run: {job.record_file}")
    return problems


def progress_bars() -> Progress:
    """Bars with the time left, on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # print, unlike typer.echo, goes through what rich puts in the place of sys.stdout to keep lines and bar apart;
    # what is piped from stdout must not go there
    redirect = sys.stdout.isatty()
    return Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=redirect
    )


def second_bar(progress: Progress, task: TaskID) -> Callable[[int, int], None]:
    """A bar for the perturbed forwards of one method, seen only while they run."""
    before = [0]

    def told(done: int, total: int) -> None:
        if done <= before[0]:
            progress.reset(task)  # another method or photo: its own time
        before[0] = done if done < total else 0
        progress.update(task, completed=done, total=total, visible=done < total)

    return told


def _show(record: dict[str, Any], out: Path) -> int:
    """Print what came of one photo; count what did not."""
    problems = [record["problem"]] if record["problem"] else []
    if record.get("picture"):
        shown = max(record["concepts"], key=lambda concept: concept["share"])
        best = shown["classes"][0]["name"]
        print(f"{record['photo']}: most of it {best} (concept {shown['concept']}): {out / record['picture']}")
    for found in record.get("explanations", ()):
        label = f"{found['name']} ({found['index']})" if found["name"] else f"class {found['index']}"
        if found["problem"]:
            problems.append(f"{record['photo']}: no overlay for {label}: {found['problem']}")
        else:
            print(f"{record['photo']}: {label}, probability {found['probability']:.3g}: {out / found['overlay']}")
    for problem in problems:
        print(f"camfn: {problem}", file=sys.stderr)
    return len(problems)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn an exception into one line and an exit code: 2 for a refusal, 130 for an interruption, 70 for the rest."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("camfn: interrupted; what was written is whole", err=True)
        raise typer.Exit(130) from None
    except CamfnError as error:
        # the message of a CamfnError says what to ask for instead
        typer.echo("camfn: " + " ".join(str(error).split()), err=True)
        raise typer.Exit(2) from error
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError, ModuleNotFoundError):
        raise  # typer ends the first four in its own way, and `main` the last
    except Exception as error:
        report_accident(error)
        raise typer.Exit(EXIT_CODE) from error
