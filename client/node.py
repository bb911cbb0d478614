"""The resident process on a client's machine: it connects, works through the tasks of a run, and stays for the next.

Its main loop processes events in order; connection, work and uploads have threads of their own and send it events.
"""

import queue
import shlex
from collections.abc import Callable

from client.connection import Connection, EnrolmentAttempt
from client.sent import SentLines, newest_run
from client.session import Backoff, CurrentSession, Retrying
from client.settings import NodeSettings, memory_folder
from client.task import (
    Began,
    ClientTask,
    Delivered,
    Event,
    FromServer,
    Journal,
    Lost,
    OfferedRun,
    Prepared,
    Reported,
    Stopped,
    TaskRunner,
    shown,
)
from client.worker import MOST_WAITING, AnswerUploads, Downloads, Worker
from plait.errors import PlaitError, RunInterrupted
from plait.report.wording import bytes_text
from plait.rounds.memory import OUTLASTS_RUN, keep_only_what_lasts
from plait.transport.credentials import open_channel
from plait.trust.diagnose import explain
from plait.trust.kit import ClientKit
from plait.v1 import federation_pb2 as pb

_PROGRESS_S = 10.0
_LONG_WORK = 3  # progress is shown once for this number of reports


class Node:
    """One node, from its first attempt to connect to its end; `backoff` makes the waits for retries of one thing."""

    def __init__(
        self,
        settings: NodeSettings,
        open_runner: Callable[[OfferedRun], TaskRunner],
        journal: Journal,
        *,
        backoff: Callable[[], Backoff] = Backoff,
        progress_s: float = _PROGRESS_S,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._progress_s = progress_s
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        post, sessions = self._events.put, CurrentSession()
        retrying = Retrying(
            sessions, backoff, trouble=lambda cause: post(Reported("trouble", f"{cause}; trying again"))
        )
        self._downloads = Downloads(retrying, max_bytes=settings.policy.max_task_bytes)
        self._uploads = AnswerUploads(retrying, post=post)
        self._worker = Worker(open_runner, downloads=self._downloads, uploads=self._uploads, post=post)
        self._connection = Connection(
            lambda: open_channel(settings.server, settings.kit),
            lambda: EnrolmentAttempt(settings.name, settings.kit.node_key if settings.kit else None),
            sessions=sessions,
            backoff=backoff(),
            explain=lambda: explain(settings.server, settings.kit),
            post=post,
        )
        self._run: OfferedRun | None = None
        self._runner: TaskRunner | None = None
        self._connected = self._draining = self._has_been_here = False
        self._attempts = self._reports = self._tasks = 0
        self._sent_bytes = self._heads_bytes = self._earlier_bytes = 0

    def stop(self, *, by_system: bool = False) -> None:
        """Ask the node to end soon, `by_system` without an error; may be called from a signal handler."""
        self._events.put(Stopped(by_system))

    def run(self) -> None:
        """Work until the run is over and the server does not stay, or the system wants the process to end."""
        self._journal.report("connecting", f"connecting to {self._settings.server} as {self._settings.name}")
        self._connection.start()
        try:
            while not self._handle(self._next()):
                pass
        finally:
            self._worker.close()
            self._uploads.close()
            self._connection.close()

    def _next(self) -> Event | None:
        try:
            return self._events.get(timeout=self._progress_s)
        except queue.Empty:
            return None

    def _handle(self, event: Event | None) -> bool:
        """Process an event; returns whether it is the last."""
        if isinstance(event, FromServer):
            self._connection.heard()
        match event:
            case None:
                self._give_up_declining()
                self._report_progress()
            case OfferedRun():
                self._welcomed(event)
            case ClientTask():
                if not self._uploads.offer(event) and not self._worker.take(event):
                    self._connection.break_off(f"server sent a task while {MOST_WAITING} others wait")
            case pb.Withdraw():
                self._worker.withdraw(event.task_id, shown(event.reason))
                self._uploads.withdraw(event.task_id, shown(event.reason))
            case pb.Unfit():
                text = f"the server cannot use this node in its run ({shown(event.reason)}): {shown(event.detail)}"
                self._journal.report("unfit", text, reason=shown(event.reason))
            case pb.Drain():
                return self._drained(finished=event.finished)
            case Lost():
                self._lost(event)
            case Prepared(run, runner):
                if run == self._run:
                    self._prepared(run, runner)
            case PlaitError():
                raise event
            case Began(task):
                self._reports = 0
                self._heads_bytes += len(task.head)
                self._send_progress(task.task_id, task.doing)
                self._journal.report("task", task.doing, task=task.task_id)
            case Delivered():
                self._delivered(event)
            case Reported(name, text, task_id):
                self._journal.report(name, text, **({"task": task_id} if task_id else {}))
            case Stopped(by_system):
                return self._stopped(by_system=by_system)
        return False

    def _welcomed(self, run: OfferedRun) -> None:
        was_connected, self._connected, self._draining, self._attempts = self._connected, True, False, 0
        if not was_connected:
            again = "again " if self._has_been_here else ""
            self._has_been_here = True
            self._journal.report("connected", f"connected {again}as {self._settings.name}", run_id=f"{run.run_id:016x}")
        if run == self._run:
            self._worker.reconnected()
            if self._runner is not None:
                self._be_ready(self._runner)
            return
        if run.stays and self._run is not None and run.run_id != self._run.run_id:
            self._over(self._run)
        # The answers of another run are useless; its state stays on disk.
        self._run, self._runner = None if run.is_none else run, None
        self._uploads.withdraw_all("the server began another run")
        if run.is_none:
            self._journal.report("waiting", "no run for this node now; waiting for the next")
        elif was_connected:
            self._journal.report("run", "the server begins another run", run_id=f"{run.run_id:016x}")
        self._worker.move_to(self._run)

    def _prepared(self, run: OfferedRun, runner: TaskRunner) -> None:
        self._runner, ready = runner, runner.ready
        ready.run_id = run.run_id
        if runner.declined:
            self._journal.report("declined", f"takes no part: {runner.declined}")
            if not self._connected and not run.stays:
                raise runner.declined
        else:
            memory = f" with {bytes_text(ready.memory_bytes)} of memory" if ready.memory_bytes else ""
            self._journal.report(
                "base",
                f"base ready on {ready.device}{memory}",
                device=ready.device,
                memory_bytes=ready.memory_bytes,
                base_fingerprint=ready.base_fingerprint.hex(),
            )
        if self._connected:
            self._be_ready(runner)

    def _be_ready(self, runner: TaskRunner) -> None:
        self._connection.send(pb.FromNode(ready=runner.ready))
        if runner.declined:
            return
        current = self._worker.current
        self._journal.report("ready", f"continuing with {current.task.doing}" if current else "waiting for work")

    def _lost(self, lost: Lost) -> None:
        was_connected, self._connected = self._connected, False
        self._attempts += 1
        # Attempts are reported whenever their number doubles: all of them at first, and no flood overnight.
        if was_connected or not self._attempts & (self._attempts - 1):
            tried = f" (attempt {self._attempts})" if self._attempts > 1 else ""
            cause = "server is restarting" if self._draining else lost.cause
            self._journal.report(
                "lost", f"{cause}; trying again{tried}", attempt=self._attempts, wait_s=round(lost.wait_s, 3)
            )

    def _drained(self, *, finished: bool) -> bool:
        self._draining = not finished
        if not finished:
            self._journal.report("draining", "server is going down; waiting for it to come back")
            return False
        if self._run is not None:
            self._over(self._run)
        return True

    def _over(self, run: OfferedRun) -> None:
        received_bytes = self._heads_bytes + self._downloads.received_bytes - self._earlier_bytes
        moved = f"sent {bytes_text(self._sent_bytes)}, received {bytes_text(received_bytes)}"
        self._journal.report(
            "finished",
            f"the run is over: did {self._tasks} tasks, {moved}",
            tasks=self._tasks,
            sent_bytes=self._sent_bytes,
            received_bytes=received_bytes,
        )
        self._earlier_bytes += received_bytes
        self._tasks = self._sent_bytes = 0
        if kit := self._settings.kit:
            self._name_run(kit, run.name)
        self._tidy(run)

    def _name_run(self, kit: ClientKit, name: str) -> None:
        try:
            newest = newest_run(SentLines.of(self._settings.state, self._settings.name).read())[:16]
        except PlaitError as error:
            self._journal.report("trouble", str(error))
            return
        if newest:
            command = shlex.join(["plait", "evidence", "--attest", "--kit", str(kit.directory), newest])
            named = f"{name}, {newest}" if name else newest
            self._journal.report("run_id", f"run {named}; to state what left this client: {command}", run=newest)

    def _tidy(self, run: OfferedRun) -> None:
        settings = self._settings
        folder = memory_folder(settings.state, run.run_id, settings.name)
        try:
            # The server ended the run.
            keep_only_what_lasts(folder, besides=OUTLASTS_RUN)
        except PlaitError as error:
            self._journal.report("trouble", str(error))
        if not (folder / "own").is_file():
            return
        named = str(run.config.get("base", "BASE"))
        base = settings.base_for(named) or shown(named)
        command = shlex.join(["plait", "export", str(folder), "my-adapter", "--to", "peft", "--base", base])
        self._journal.report("own_adapter", f"this client's personalized adapter: {command}", folder=str(folder))

    def _stopped(self, *, by_system: bool) -> bool:
        current = self._worker.current
        doing = f"abandoning {current.task.doing} at its next step" if current else "no work in progress"
        self._journal.report("stopping", f"stopping: {doing}; everything needed later is on disk")
        if not by_system:
            raise RunInterrupted("stopped; start it again to continue")
        return True

    def _delivered(self, event: Delivered) -> None:
        if self._runner and self._runner.declined:
            if self._run is None or not self._run.stays:
                raise self._runner.declined  # the server knows
            return
        self._tasks += 1
        self._sent_bytes += event.sent_bytes
        task = event.task
        if event.failure:
            text, name = f"{task.doing}: failed; reported to the server: {event.failure}", "refused"
        elif not event.kept:
            text, name = f"{task.doing}: the answer came too late", "late"
        else:
            text, name = f"{task.doing}: sent {bytes_text(event.sent_bytes)}", "sent"
        self._journal.report(name, text, task=task.task_id, sent_bytes=event.sent_bytes)

    def _report_progress(self) -> None:
        current = self._worker.current
        if current is None:
            return
        task, steps = current.task, current.abandonment.steps
        doing = f"{task.doing}, step {steps}" if steps else task.doing
        self._send_progress(task.task_id, doing)
        self._reports += 1
        if self._reports % _LONG_WORK == 0:
            self._journal.report("progress", doing, task=task.task_id, step=steps)

    def _give_up_declining(self) -> None:
        """A server that never asks need not know why this node takes no part."""
        if self._runner and self._runner.declined and self._run and not self._run.stays:
            self._reports += 1
            if self._reports > _LONG_WORK:
                raise self._runner.declined

    def _send_progress(self, task_id: str, doing: str) -> None:
        self._connection.send(pb.FromNode(progress=pb.Progress(task_id=task_id, doing=doing)))
