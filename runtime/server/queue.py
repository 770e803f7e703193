"""The queue before the engines: requests are answered one at a time in their order, by a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable
from typing import TypeVar

from switchkd.computer import return_freed_memory
from switchkd.errors import SkdError
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.server.answer import End, Outcome, Piece, answer
from switchkd.runtime.server.limits import RequestError
from switchkd.runtime.server.request import ChatRequest

CLIENT_GONE = 499  # nginx's status for it; nobody sees it but the metrics
Event = Piece | End | Outcome | RequestError  # of one answer: a piece, its end; of the request: its end, its failure
Result = TypeVar("Result")

log = logging.getLogger("skd.serve")


class Job:
    """A request's place in the queue, from its arrival until its answer ended.

    All methods belong to the event loop's thread, but for `check` and `put`, which the engine's thread calls.

    Args:
        seconds: what the request may take from now on.
    """

    def __init__(self, queue: Queue, seconds: float) -> None:
        self._queue, self._loop = queue, asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._end: RequestError | None = None  # why it shouldn't go on
        self.request: ChatRequest | None = None
        self.engine: Engine | None = None
        self.arrived = self.started = time.monotonic()
        self.deadline = self.arrived + seconds

    @property
    def waited(self) -> float:
        """Seconds from the request's arrival to the engine's beginning, its picture's decoding included."""
        return self.started - self.arrived

    def start(self, request: ChatRequest, engine: Engine) -> None:
        """Puts the request in the queue, when it is prepared, for an engine that only the queue's thread uses."""
        self.request, self.engine = request, engine
        self._queue.append(self)

    def cancel(self, reason: RequestError | None = None) -> None:
        """Takes the request out of the queue, or ends it at its next token. Does nothing to one that has ended."""
        self._end = self._end or reason or RequestError(CLIENT_GONE, "The client has gone.")
        self._queue.leave(self)
        self._events.put_nowait(self._end)

    async def next(self) -> Event:
        """The next event, at the latest when the time is up, whatever the engine is doing then."""
        try:
            return await self.in_time(self._events.get())
        except RequestError as error:
            return error

    async def in_time(self, work: Awaitable[Result]) -> Result:
        """Waits for something; when the time is up, cancels it and the request and raises RequestError 504."""
        try:
            async with asyncio.timeout(max(0.0, self.deadline - time.monotonic())):
                return await work
        except TimeoutError:
            error = self._late()
            self.cancel(error)
            raise error from None

    def check(self) -> None:
        """Raises RequestError where the request shouldn't go on."""
        if self._end is not None:
            raise self._end
        if time.monotonic() > self.deadline:
            raise self._late()

    def put(self, event: Event) -> None:
        """Hands an event over to the event loop, which may be gone when the server was told to end at once."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _late(self) -> RequestError:
        return RequestError(504, f"The answer took more than {self.deadline - self.arrived:g} s.", code="timeout")


class Queue:
    """A bounded queue and the thread that empties it.

    Args:
        waiting: how many requests may wait while another is answered.
    """

    def __init__(self, waiting: int) -> None:
        self._places = waiting + 1
        self._changed = threading.Condition()
        self._admitted: set[Job] = set()
        self._jobs: deque[Job] = deque()
        self._current: Job | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests in the queue, the one being answered left out."""
        return len(self._jobs)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._current is not None

    @property
    def overdue(self) -> float:
        """Seconds since the time of the request under way was up: the engine hasn't come back from a step."""
        current = self._current
        return 0.0 if current is None else max(0.0, time.monotonic() - current.deadline)

    def enter(self, seconds: float) -> Job:
        """A place for a request that has arrived; `leave` gives one back that wasn't started.

        Args:
            seconds: what the request may take.

        Raises:
            RequestError: 429, all places are taken; 503, the server is stopping.
        """
        with self._changed:
            if self._closed:
                raise _stopping()
            if len(self._admitted) >= self._places:
                message = f"{self._places} requests are waiting or being answered already; try again later."
                raise RequestError(429, message, code="queue_full")
            job = Job(self, seconds)
            self._admitted.add(job)
            return job

    def append(self, job: Job) -> None:
        """Puts a job that has entered at the end of the queue."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def leave(self, job: Job) -> None:
        """Takes a job out, place and all, unless it is being answered: that one leaves by itself."""
        with self._changed:
            if job is self._current:
                return
            if job in self._jobs:
                self._jobs.remove(job)
            self._admitted.discard(job)

    def close(self) -> None:
        """Ends the request under way at its next step, drops the rest, and waits for the thread."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.put(_stopping())
            self._jobs.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (job := self._take()) is not None:
            assert job.request is not None and job.engine is not None
            try:
                job.put(self._answer(job, job.engine, job.request))
            except RequestError as error:
                job.put(error)
            except SkdError as error:
                log.error("%s", error)
                job.put(RequestError(500, str(error), code="engine_error"))
            except Exception:
                log.exception("an answer failed")
                job.put(RequestError(500, "The engine failed; the server's log tells more.", code="engine_error"))
            finally:
                with self._changed:
                    self._current = job.request = None
                    self._admitted.discard(job)
                del job

    def _take(self) -> Job | None:
        """The next job; None when the queue is closed."""
        if not self._jobs:
            return_freed_memory()  # pictures and requests come and go in megabytes, which fray the allocator's memory
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return None
            self._current = job = self._jobs.popleft()
            return job

    def _answer(self, job: Job, engine: Engine, request: ChatRequest) -> Outcome:
        def check() -> None:
            job.check()
            if self._closed:
                raise _stopping()

        job.started = time.monotonic()
        check()
        pieces = answer(engine, request, check)
        while True:
            try:
                job.put(next(pieces))
            except StopIteration as end:
                return end.value


def _stopping() -> RequestError:
    return RequestError(503, "The server is stopping.", code="stopping")
