"""Do tasks one at a time in a separate thread: download the body, run the app, pass the answer on.

It continues with its task while disconnected. Knows nothing of enrolment and of how answers are sent.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from client.downloads import Downloads
from client.events import Began, Dropped, Event, Failed, Prepared
from client.runner import Run, TaskRunner
from client.task import Answer, Task
from client.task_handle import TaskHandle
from client.uploads import Uploads
from client.watched_thread import watched_thread
from client.wording import failure
from plait.abandon import Abandoned
from plait.errors import MachineError, PlaitError

MOST_WAITING = 8
"""Waiting tasks besides the current one; an honest server sends one at a time."""
_PREPARATION_S = 10.0


@dataclass(eq=False)
class Worker:
    """Works for one run at a time.

    Attributes:
        open_runner: prepares for a run; may take minutes.
    """

    open_runner: Callable[[Run], TaskRunner]
    _: KW_ONLY
    downloads: Downloads
    uploads: Uploads
    tell: Callable[[Event], None]

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._run: Run | None = None  # to prepare for
        self._runner: TaskRunner | None = None
        self._waiting: deque[TaskHandle] = deque()
        self._current: TaskHandle | None = None
        self._confirmed = False
        self._busy = False
        self._closed = False
        self._thread = watched_thread(self._work, name="worker", tell=self.tell)
        self._thread.start()

    @property
    def current(self) -> TaskHandle | None:
        """The current task."""
        return self._current

    def rest(self) -> None:
        """Drop everything: there is no run now. What was prepared stays until another begins."""
        self.withdraw_all("the run is over")
        with self._changed:
            self._run = None

    def move_to(self, run: Run) -> None:
        """Drop everything and prepare for a run; `Prepared` or `Failed` reports the result."""
        self.withdraw_all("the server began another run")
        with self._changed:
            self._run = run
            self._changed.notify_all()

    def reconnected(self) -> None:
        """The server will resend whatever it waits for; until then the current task may be unwanted."""
        with self._changed:
            self._waiting.clear()
            self._confirmed = False

    def take(self, task: Task) -> bool:
        """Do a task, unless it is in progress already; False if more wait than a server has reason to send."""
        with self._changed:
            current = self._current
            if current is not None and not current.abandonment.is_asked:
                if current.task == task and current.offered_again():
                    self._confirmed = True
                    return True
                same_name = current.task.task_id == task.task_id
                # A server that begins another attempt at a masked sum has no use for anything of the one before.
                over = bool(task.attempt and current.task.attempt not in ("", task.attempt))
                unasked = not self._confirmed and current.task.message_type == task.message_type
                if same_name or over or unasked:
                    current.give_up("the server sent another task instead")
            if all(waiting.task != task for waiting in self._waiting):
                if len(self._waiting) >= MOST_WAITING:
                    return False
                self._waiting.append(TaskHandle(task))
                self._changed.notify_all()
            return True

    def withdraw(self, task_id: str, reason: str) -> None:
        """A task is no longer needed."""
        with self._changed:
            self._waiting = deque(waiting for waiting in self._waiting if waiting.task.task_id != task_id)
            if self._current is not None and self._current.task.task_id == task_id:
                self._current.give_up(reason)

    def withdraw_all(self, reason: str) -> None:
        """No task is needed any more."""
        with self._changed:
            self._waiting.clear()
            if self._current is not None:
                self._current.give_up(reason)

    def close(self) -> None:
        """Drop everything and end; the current task ends at its next step."""
        self.withdraw_all("the node stops")
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            preparing = self._busy and self._current is None
        # Preparation cannot be interrupted, and holds nothing that needs to be saved. But a library that still loads a
        # base while the process ends may abort it, and most bases are loaded in seconds.
        self._thread.join(_PREPARATION_S if preparing else None)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if isinstance(job, Run):
                self._make_ready(job)
            else:
                self._do(job)
            with self._changed:
                self._busy, self._current = False, None

    def _next(self) -> Run | TaskHandle | None:
        with self._changed:
            while not self._closed:
                if self._run is not None:
                    run, self._run = self._run, None
                    self._busy = True
                    return run
                if self._waiting:
                    self._busy, self._confirmed = True, True
                    self._current = self._waiting.popleft()
                    return self._current
                self._changed.wait()
            return None

    def _make_ready(self, run: Run) -> None:
        self._runner = None  # its memory is needed for the next one
        try:
            self._runner = self.open_runner(run)
        except PlaitError as error:
            self.tell(Failed(error))
        except Exception as error:
            # Libraries raise anything; the operator gets one line.
            self.tell(Failed(MachineError(f"cannot prepare for the run: {failure(error)}")))
        else:
            self.tell(Prepared(run, self._runner.capacity))

    def _do(self, handle: TaskHandle) -> None:
        runner = self._runner
        if runner is None:
            return
        task, abandonment = handle.task, handle.abandonment
        self.tell(Began(task))
        try:
            try:
                body = self.downloads.fetch(handle)
            except Abandoned:
                raise
            except PlaitError as error:
                answer = Answer.failed(str(error))
            else:
                with abandonment.obeyed():
                    answer = runner.answer(task, body)
            abandonment.check()
        except Abandoned:
            self.tell(Dropped(task, abandonment.reason))
        else:
            self.uploads.put(task, answer)
