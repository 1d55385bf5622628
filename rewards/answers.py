"""How an answer is compared with a reference: as a text, as a number, nearly, or by a model that is asked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future

from palaestra.agents.vlm.client import Client
from palaestra.agents.vlm.core import Generate, Message, Reply, Text

Judge = Callable[[str, str, str], float]
"""Question, reference and prediction to a score in [0, 1]; it raises where it has no verdict."""
ASKED = """Is the generated answer right? The reference answer is right; its wording does not matter.
Query: {question}
Reference answer: {reference}
Generated answer: {prediction}
Reply with <judge>True</judge> or <judge>False</judge> and nothing else."""
"""VRAG's judge says the same at greater length."""
LONGEST = 2000
"""Characters of an answer that a model is shown: longer ones are not answers."""


def normal_form(text: str) -> str:
    """Return a text without case, articles, punctuation and needless space, as SQuAD's scorer compares it."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[^\w\s.%-]", " ", plain).split()
    kept = [word for word in words if word not in ("a", "an", "the")] or words
    return " ".join(kept).strip(" .")


def exact(question: str, reference: str, prediction: str) -> float:
    """Return 1 where prediction and reference have the same normal form, else 0."""
    return float(normal_form(reference) == normal_form(prediction))


def numeric(question: str, reference: str, prediction: str, tolerance: float = 0.05) -> float:
    """Return 1 where the only number of each is equal up to a relative tolerance, else `exact`.

    ChartQA's relaxed accuracy (Masry et al. 2022); 12 % and 12 are taken to be one number.
    """
    wanted, said = _number(reference), _number(prediction)
    if wanted is None or said is None:
        return exact(question, reference, prediction)
    return float(abs(said - wanted) <= tolerance * abs(wanted))


def anls(question: str, reference: str, prediction: str, threshold: float = 0.5) -> float:
    """Return 1 - the Levenshtein distance over the longer length, 0 where that is below the threshold.

    Average normalised Levenshtein similarity (Biten et al. 2019), of one answer.
    """
    left, right = normal_form(reference), normal_form(prediction)
    longer = max(len(left), len(right))
    similar = 1 - _distance(left, right) / longer if longer else 1.0
    return similar if similar >= threshold else 0.0


class AnswerJudge:
    """A model on a server, or in this process, that says whether an answer is right."""

    def __init__(self, client: Client, model: str) -> None:
        """Take a client and the model's name there."""
        self._client, self._model = client, model
        self._asked: dict[tuple[str, str, str], Future[Reply]] = {}

    def begin(self, question: str, reference: str, prediction: str) -> None:
        """Ask without waiting for the answer: many questions become a batch. Equal ones are asked once."""
        case = question, reference, prediction
        if case not in self._asked:
            self._asked[case] = self._ask(*case)

    def forget(self) -> None:
        """Forget what was begun: who asks again gets a new verdict."""
        self._asked.clear()

    def __call__(self, question: str, reference: str, prediction: str) -> float:
        """Return the verdict, 0 or 1.

        Raises:
            ValueError: The model says neither True nor False, or both.
            Exception: Whatever failed at the server.
        """
        case = question, reference, prediction
        answer = (self._asked.get(case) or self._ask(*case)).result().answer
        assert isinstance(answer, Text)
        verdicts = set(re.findall(r"<judge>\s*(true|false)\s*</judge>", answer.text, re.IGNORECASE))
        found = {verdict.lower() for verdict in verdicts}
        if len(found) != 1:
            raise ValueError(f"the judge was to say <judge>True</judge> or <judge>False</judge>: {answer.text[:80]!r}")
        return float(found == {"true"})

    def _ask(self, question: str, reference: str, prediction: str) -> Future[Reply]:
        text = ASKED.format(question=question, reference=reference, prediction=_quoted(prediction))
        return self._client.ask_nowait(self._model, Generate((Message("user", (text,)),), max_tokens=16), wait=True)


def _quoted(prediction: str) -> str:
    """Return an answer as the judge is shown it: it cannot bring verdicts of its own."""
    return re.sub(r"</?judge>", " ", prediction, flags=re.IGNORECASE)[:LONGEST]


def _number(text: str) -> float | None:
    """Return the only number in a text, thousands separators understood; None where there is none or several."""
    found = re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3}\b)", "", text))
    return float(found[0]) if len(found) == 1 else None


def _distance(left: str, right: str) -> int:
    """Return the Levenshtein distance."""
    row = list(range(len(right) + 1))
    for number, one in enumerate(left, start=1):
        before, row[0] = row[0], number
        for place, other in enumerate(right, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (one != other))
    return row[-1]
