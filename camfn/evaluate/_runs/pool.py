"""Work shared out among workers that may die: a lost worker is replaced, and its row tried three times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Protocol

from .._inputs.cases import Case
from .._inputs.photos import Photo
from .._measures.row import Row
from .work import TRIES, Work


class LostError(Exception):
    """A worker died while it made a row; the message says how."""


class Hand(Protocol):
    """A worker, as the pool sees it."""

    def rows(self, work: Work) -> Iterator[Row]:
        """Yield the rows of a piece of work.

        Raises:
            LostError: the worker died.
        """

    def close(self) -> None:
        """End the worker, also one that is working."""


def shared_out(works: Sequence[Work], hire: Callable[[int], Hand], number: int) -> Iterator[Row]:
    """Yield the rows of all works as workers make them.

    Args:
        works: the work, taken in this order.
        hire: makes the worker of a place, 0 to `number` - 1; called again where one was lost.
        number: how many workers work at a time.
    """
    pool = _Pool(works, hire)
    threads = [Thread(target=pool.serve, args=(place,), daemon=True) for place in range(min(number, len(works)))]
    for thread in threads:
        thread.start()
    try:
        working = len(threads)
        while working:
            said = pool.said.get()
            if isinstance(said, BaseException):
                raise said
            if said is None:
                working -= 1
            else:
                yield said
    finally:
        pool.stop()
        for thread in threads:
            thread.join(timeout=10)


class _Pool:
    """The work to do, and the workers."""

    def __init__(self, works: Sequence[Work], hire: Callable[[int], Hand]) -> None:
        self.left, self.hire = iter(works), hire
        self.said: SimpleQueue[Row | BaseException | None] = SimpleQueue()
        self.lock, self.stopped = Lock(), Event()
        self.hands: dict[int, Hand] = {}
        self.unreadable: set[str] = set()

    def serve(self, place: int) -> None:
        """Take one piece of work after the other, in a thread for each worker."""
        try:
            while (work := self._next()) is not None:
                self._do(place, work)
        except BaseException as error:
            self.said.put(error)
        else:
            self.said.put(None)
        finally:
            self._dismiss(place)

    def stop(self) -> None:
        """End all workers."""
        self.stopped.set()
        for place in list(self.hands):
            self._dismiss(place)

    def _next(self) -> Work | None:
        """Return the next work whose photo can be read; None at the end."""
        with self.lock:
            if self.stopped.is_set():
                return None
            return next((work for work in self.left if work.photo.name not in self.unreadable), None)

    def _do(self, place: int, work: Work) -> None:
        """Make the rows of one piece of work, by as many workers as it takes."""
        due, losses = list(work.cases), Counter[str]()
        while due and not self.stopped.is_set():
            lost = self._try(place, work.photo, due)
            if lost is None:
                return
            self._dismiss(place)
            case = due[0]
            losses[str(case)] += 1
            if losses[str(case)] >= TRIES and not self.stopped.is_set():
                row = Row(work.photo.name, str(case), model=case.model, method=case.name, kind="accident")
                self.said.put(row._replace(problem=f"its worker died {TRIES} times: {lost}", tries=TRIES))
                del due[0]

    def _try(self, place: int, photo: Photo, due: list[Case]) -> LostError | None:
        """Make the rows that are due by one worker, and take off those that came; return how it was lost."""
        try:
            if place not in self.hands:
                self.hands[place] = self.hire(place)
            for row in self.hands[place].rows(Work(photo, tuple(due))):
                if not row.case:
                    self.unreadable.add(row.photo)
                self.said.put(row)
                del due[: 1 if row.case else len(due)]
        except LostError as lost:
            # it may have died behind its last row
            return lost if due else None
        return None

    def _dismiss(self, place: int) -> None:
        """End one worker."""
        hand = self.hands.pop(place, None)
        if hand is not None:
            hand.close()
