"""An asyncio event loop on a virtual clock.

When no callback is ready the clock jumps to the next timer; nothing ever sleeps. Timers of equal time fire in the
order in which they were made (asyncio's own heap does not promise that), and tasks and futures hash by creation
number, so that the sets inside asyncio have one order in every process. The same program therefore runs the same
way every time: no wall clock, no threads, no addresses in memory steer it.

`asyncio.sleep`, `timeout`, `gather`, `wait`, `TaskGroup`, `Event`, `Queue`, `Lock` all work on it unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import math
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from shoal.engine.errors import Deadlock

INFINITE = math.inf
T = TypeVar("T")
if TYPE_CHECKING:
    _Loop = Any  # the stubs ask for sockets, signals and subprocesses, which a virtual loop does not have
else:
    _Loop = asyncio.AbstractEventLoop


class Task(asyncio.Task[T]):
    """A task that hashes by its creation number.

    Attributes:
        must_succeed: for the world: an error in it is the peer's.
    """

    must_succeed = False

    def __init__(self, coro: Any, **options: Any) -> None:
        # of the loop, not of the process: an earlier run must not shift the order of a set in this one
        self._number: int = next(options["loop"]._numbers)  # before super(), which hashes it as it registers it
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class Future(asyncio.Future[T]):
    """A future that hashes by its creation number."""

    def __init__(self, **options: Any) -> None:
        self._number: int = next(options["loop"]._numbers)
        super().__init__(**options)

    def __hash__(self) -> int:
        return self._number


class Handle:
    """A scheduled callback that can be cancelled (what asyncio calls Handle and TimerHandle)."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_when")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        when: float,
    ) -> None:
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False
        self._when = when

    def cancel(self) -> None:
        """Do not call it any more; what it holds is released at once."""
        self._cancelled = True
        self._callback = None
        self._args = ()

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def when(self) -> float:
        """Virtual time, in seconds, at which it is due."""
        return self._when

    def __call__(self) -> None:
        """Call it, unless it was cancelled."""
        if self._callback is not None:
            self._context.run(self._callback, *self._args)


class VirtualLoop(_Loop):  # type: ignore[misc]
    """Event loop with a virtual clock that starts at 0 s.

    Attributes:
        fired: number of timers that have fired (a measure of work, used to notice livelocks).
        fired_limit: when `fired` exceeds it, `on_fired` is called with words for what happened.
        spin_limit: likewise when that many rounds of callbacks have followed each other without the clock moving.
        on_task: called with every new task; lets a world know whose task it is.
        on_unhandled: called with an error that nobody awaited, and the task or future that held it; without it,
            `run_until_complete` raises the error.
        on_stuck: called when nothing is ready or scheduled while somebody waits; returns the report.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._running = False
        self._closed = False
        self._stopping = False
        self._asyncgens: list[Any] = []
        self.fired = 0
        self.fired_limit = sys.maxsize
        self.spin_limit = sys.maxsize
        self.on_fired: Callable[[str], None] | None = None
        self.on_task: Callable[[asyncio.Task[Any]], None] | None = None
        self.on_stuck: Callable[[], str] | None = None
        self.on_unhandled: Callable[[BaseException, Any], None] | None = None
        self.unhandled: list[BaseException] = []

    def time(self) -> float:
        """Virtual time in seconds."""
        return self._now

    # -- scheduling ------------------------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        """Call `callback(*args)` at this instant, after what is already ready."""
        handle = Handle(callback, args, context, self._now)
        self._ready.append((handle, ()))
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """Call `callback(*args)` at virtual time `when`; a past time means now."""
        handle = Handle(callback, args, context, when)
        self.post(when, handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """Call `callback(*args)` after `delay` virtual seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def post(self, when: float, callback: Callable[..., object], *args: Any) -> None:
        """Like `call_at`, without a handle or a context: the cheap form for messages, which are never recalled."""
        if not when >= self._now:  # also a NaN
            when = self._checked(when)
        heapq.heappush(self._timers, (when, next(self._order), callback, args))

    def _checked(self, when: float) -> float:
        if when != when:
            raise ValueError("when: got nan; a virtual time must be a number of seconds")
        return self._now

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Any = None,
    ) -> asyncio.Task[T]:
        """Run a coroutine as a task of this loop."""
        task: asyncio.Task[T] = Task(coro, loop=self, name=name, context=context)
        if self.on_task is not None:
            self.on_task(task)
        return task

    # -- running ---------------------------------------------------------------------------------------------

    def run_until_complete(self, future: Any) -> Any:
        """Run until the future (or coroutine) is done and return its result.

        Raises:
            Deadlock: nothing is ready or scheduled and the future is not done.
        """
        if asyncio.iscoroutine(future):
            future = self.create_task(future)
        self._drive(future.done)
        return future.result()

    def run_forever(self) -> None:
        """Run until `stop()` is called."""
        self._drive(lambda: False)

    def _drive(self, done: Callable[[], bool]) -> None:
        if self._running:
            raise RuntimeError("this loop is already running")
        if self._closed:
            raise RuntimeError("this loop is closed")
        hooks = sys.get_asyncgen_hooks()
        self._running, self._stopping = True, False
        previous = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(finalizer=self._finalise_asyncgen)
        ready, timers, pop = self._ready, self._timers, heapq.heappop
        callback: Any
        args: Any
        try:
            while True:
                spins = 0
                while ready:
                    for _ in range(len(ready)):
                        callback, args = ready.popleft()
                        if type(callback) is not Handle:
                            callback(*args)
                        elif callback._callback is not None:  # as `Handle.__call__`, without the call
                            callback._context.run(callback._callback, *callback._args)
                    spins += 1
                    if spins % self.spin_limit == 0 and self.on_fired is not None:
                        self.on_fired(f"{spins} rounds of callbacks ran at this one instant")
                callback = args = None  # let go of a task that failed: its error shows now
                if self.unhandled:
                    raise self.unhandled[0]
                if self._stopping or done():
                    return
                while timers and type(timers[0][2]) is Handle and timers[0][2]._cancelled:
                    pop(timers)  # must not move the clock
                if not timers or timers[0][0] == INFINITE:
                    raise Deadlock(self.on_stuck() if self.on_stuck else "nothing is ready or scheduled")
                if self.fired > self.fired_limit and self.on_fired is not None:
                    self.on_fired(f"{self.fired} timers fired")
                self._now = when = timers[0][0]
                while timers and timers[0][0] == when:
                    _, _, callback, args = pop(timers)
                    ready.append((callback, args))
                    self.fired += 1
        finally:
            self._running = False
            asyncio._set_running_loop(previous)
            sys.set_asyncgen_hooks(*hooks)

    def _finalise_asyncgen(self, generator: Any) -> None:
        if not self._closed:
            self.call_soon(self.create_task, generator.aclose())

    def stop(self) -> None:
        """Stop at the end of this instant's ready callbacks."""
        self._stopping = True

    def is_running(self) -> bool:
        """Whether the loop is running."""
        return self._running

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Drop everything that is scheduled."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def drop_all(self) -> None:
        """Let cancelled tasks end, and drop all timers. What they raise now is no news."""
        spins = 0
        while self._ready and spins < 1000:  # whoever will not end is left
            spins += 1
            for _ in range(len(self._ready)):
                callback, args = self._ready.popleft()
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    callback(*args)
        self.close()

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do: generators are finalised as they are dropped."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing to do: there is no executor."""

    # -- what asyncio asks of a loop ------------------------------------------------------------------------

    def get_debug(self) -> bool:
        """Always False."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """Ignored."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Remember an error that nobody awaited; `run_until_complete` raises it."""
        error = context.get("exception")
        if not isinstance(error, BaseException):
            return
        if self.on_unhandled is not None:
            self.on_unhandled(error, context.get("future"))
        else:
            self.unhandled.append(error)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Same as `call_exception_handler`."""
        self.call_exception_handler(context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Refused: a thread's timing would steer the simulation."""
        raise RuntimeError(
            "threads are not allowed in a simulated world, since their timing would steer the results: "
            "use `await me.compute(fn, ...)`"
        )

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Handle:
        """Refused like `run_in_executor`."""
        raise RuntimeError("threads are not allowed in a simulated world: use `await me.compute(fn, ...)`")
