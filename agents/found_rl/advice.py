"""Asking a teacher while training goes on, and taking its answers to the slots that they were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from palaestra.agents.found_rl.queries import Query
from palaestra.agents.found_rl.replay import Replay
from palaestra.agents.optimiser import under
from palaestra.agents.vlm.client import Client
from palaestra.agents.vlm.core import Answer, Ask, Reply

Gives = Literal["action", "bonus"]
PATIENCE = 60.0
"""Seconds that a run with a fixed delay waits for an answer before it goes on without."""


class Teacher(Protocol):
    """What to ask of a model about a view, and what its answer means. Teachers derive from this."""

    model: str
    """Its name on the client."""
    gives: Gives
    """Whether an answer is an action [A], or a bonus for the action taken, []."""

    def asks(self, rows: Tensor, action: Tensor) -> Sequence[tuple[Ask, Tensor | None]]:
        """Return an ask about the present view of each of some worlds, with what `read` will need of it.

        Args:
            rows: [N] int64.
            action: [N, A]: what is about to be done there.
        """
        ...

    def read(self, answer: Answer, note: Tensor | None) -> Tensor:
        """Return what an answer says: an action [A] in the box, or a bonus [].

        Raises:
            ValueError: It says nothing of the kind.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return what `read` has gathered over the answers so far; nothing where each is read for itself."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore it."""
        if state:
            raise ValueError(f"this teacher gathers nothing, but was given {', '.join(sorted(state))}.")


@dataclass(slots=True)
class Counts:
    """What became of the asks: asked = labelled + late + failed + unreadable + lost + those outstanding."""

    asked: int = 0
    labelled: int = 0
    """Answers that were written."""
    late: int = 0
    """Answers to slots that had been written anew."""
    failed: int = 0
    """Errors: of the server, of the model, of the ask."""
    unreadable: int = 0
    """Answers that are none: prose, NaN, the wrong shape."""
    lost: int = 0
    """Given up: never answered while their slot lasted, or outstanding when the worlds were restarted."""
    strange: int = 0
    """Answers beyond those: repeated ones, or ones that nobody waits for."""
    age: int = 0
    """Decisions from ask to label, summed over the labels."""


@dataclass(frozen=True, slots=True)
class _Ticket:
    slot: int
    generation: int
    asked: int
    """The decision."""
    note: Tensor | None
    future: Future[Reply]


@dataclass(frozen=True, slots=True)
class Labels:
    """What has just been written into the replay."""

    slot: Tensor
    """[N] int64."""
    value: Tensor
    """[N, A] actions or [N] bonuses."""


class Advisor:
    """One teacher's asks and answers. It never waits, unless it is told to keep a fixed delay."""

    def __init__(
        self, client: Client, teacher: Teacher, replay: Replay, query: Query, delay: int | None = None
    ) -> None:
        """Ask a teacher about what a replay holds.

        Args:
            client: Knows the teacher's model, and is polled by nobody else.
            teacher: Words the asks.
            replay: Gets the labels.
            query: Chooses the views.
            delay: If given, an answer is written this many decisions after its ask, and waited for if need be:
                runs repeat themselves exactly. Else as soon as it is there.
        """
        if delay is not None and delay < 0:
            raise ValueError(f"delay is {delay}; it must be at least 0 decisions, or None for as soon as possible.")
        self.client, self.teacher, self.replay, self.query, self.delay = client, teacher, replay, query, delay
        self.counts = Counts()
        self._tickets: dict[int, _Ticket] = {}
        self._serial = 0

    @property
    def outstanding(self) -> int:
        """Asks without an answer."""
        return len(self._tickets)

    def ask(self, decision: int, action: Tensor, disagreement: Tensor | None = None) -> None:
        """Ask about some of the present views.

        Args:
            decision: Its number.
            action: [W, A]: what is about to be done at them.
            disagreement: [W]: of the critics.
        """
        rows = self.query.choose(decision, disagreement, self.outstanding)
        if not len(rows):
            return
        slots = self.replay.current[rows.to(self.replay.current.device)]
        places = zip(slots.tolist(), self.replay.generation[slots].tolist(), strict=True)
        asks = self.teacher.asks(rows, action[rows.to(action.device)])
        for (slot, generation), (ask, note) in zip(places, asks, strict=True):
            self._serial += 1
            future = self.client.ask_nowait(self.teacher.model, ask, key=self._serial)
            self._tickets[self._serial] = _Ticket(slot, generation, decision, note, future)
        self.counts.asked += len(rows)

    def collect(self, decision: int) -> Labels | None:
        """Write the labels that are due, and return those that were written; None if there were none."""
        came = self.client.poll()
        outcomes = self._come(came) if self.delay is None else self._due(decision - self.delay)
        read = [(ticket, self._read(outcome, ticket.note)) for ticket, outcome in outcomes]
        readable = [(ticket, value) for ticket, value in read if value is not None]
        labels = self._write(readable, decision) if readable else None
        if self.delay is None:
            self._give_up(decision - self.replay.slots)
        return labels

    def drop(self) -> None:
        """Give up all that is outstanding."""
        for ticket in self._tickets.values():
            ticket.future.cancel()
        self.counts.lost += len(self._tickets)
        self._tickets.clear()

    def metrics(self) -> dict[str, float]:
        """Return counts, yield and mean age under advice/."""
        counts = self.counts
        numbers = {name: float(value) for name, value in asdict(counts).items() if name != "age"}
        numbers["outstanding"] = float(self.outstanding)
        if done := counts.asked - self.outstanding:
            numbers["yield"] = counts.labelled / done
        if counts.labelled:
            numbers["age"] = counts.age / counts.labelled
        return {f"advice/{name}": value for name, value in numbers.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts, and what the teacher has gathered."""
        counts = {name: torch.tensor(value) for name, value in asdict(self.counts).items()}
        return counts | {f"teacher.{name}": value for name, value in self.teacher.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore both; asks that were outstanding are lost."""
        self.drop()
        self.counts = Counts(**{name: int(state[name]) for name in asdict(self.counts)})
        self.teacher.load_state_dict(under("teacher.", state))

    def _come(self, came: Sequence[tuple[object, Reply | Exception]]) -> list[tuple[_Ticket, Reply | Exception]]:
        """Return what has come to whom; nobody is answered twice."""
        outcomes = []
        for key, outcome in came:
            ticket = self._tickets.pop(key, None) if isinstance(key, int) else None
            if ticket is None:
                self.counts.strange += 1
            else:
                outcomes.append((ticket, outcome))
        return outcomes

    def _due(self, until: int) -> list[tuple[_Ticket, Reply | Exception]]:
        """Return the outcomes of all asks up to a decision, in the order of asking, waiting for them."""
        outcomes: list[tuple[_Ticket, Reply | Exception]] = []
        for serial, ticket in list(self._tickets.items()):
            if ticket.asked > until:
                break
            del self._tickets[serial]
            try:
                outcomes.append((ticket, ticket.future.result(PATIENCE)))
            except Exception as error:
                outcomes.append((ticket, error))
        return outcomes

    def _read(self, outcome: Reply | Exception, note: Tensor | None) -> Tensor | None:
        if isinstance(outcome, Exception):
            self.counts.failed += 1
            return None
        try:
            value = self.teacher.read(outcome.answer, note)
        except ValueError:
            self.counts.unreadable += 1
            return None
        if not bool(torch.isfinite(value).all()):
            self.counts.unreadable += 1
            return None
        return value

    def _write(self, labels: list[tuple[_Ticket, Tensor]], decision: int) -> Labels | None:
        device = self.replay.current.device
        slot = torch.tensor([ticket.slot for ticket, _ in labels], device=device)
        generation = torch.tensor([ticket.generation for ticket, _ in labels], device=device)
        asked = torch.tensor([ticket.asked for ticket, _ in labels])
        value = torch.stack([value for _, value in labels]).to(device)
        write = self.replay.label if self.teacher.gives == "action" else self.replay.score
        fresh = write(slot, generation, value)
        count = int(fresh.sum())
        self.counts.labelled += count
        self.counts.late += len(labels) - count
        self.counts.age += int((decision - asked[fresh.cpu()]).sum())
        return Labels(slot[fresh], value[fresh]) if count else None

    def _give_up(self, until: int) -> None:
        """Forget asks whose slots have been written anew since."""
        for serial, ticket in list(self._tickets.items()):
            if ticket.asked > until:
                break
            ticket.future.cancel()
            del self._tickets[serial]
            self.counts.lost += 1
