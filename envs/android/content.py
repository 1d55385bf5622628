"""Words that phones are filled with, and the mixtures that are drawn from them. Nothing here is anybody's."""

from __future__ import annotations

from random import Random


def _words(text: str, between: str = " ") -> list[str]:
    return text.split(between)


FIRST = _words(
    "Ada Ben Cleo Dan Eva Finn Gia Hugo Iris Jack Kira Leo Mia Nora Omar Pia Quin Rosa Sam Tara Uma Vera "
    "Will Xena Yara Zoe Amir Bela Carl Dora"
)
LAST = _words(
    "Ames Bell Cole Diaz East Ford Gray Hill Ito Jung Kahn Lund Moss Nash Ochs Park Reed Shaw Tran Vega"
)
ITEMS = _words(
    "mouse shoes lamp mug tent drone watch jacket chair desk phone cable bag bike book clock fan guitar "
    "hat kettle knife mat oven pen"
)
"""What shops sell."""
ADJECTIVES = _words("Red Blue Mini Pro Eco Max Soft Slim Fast Old Big Lite")
SUBJECTS = _words("Lunch Report Invoice Meeting Photos Ticket Recipe Plan Budget Party Trip News")
PHRASES = _words(
    "see you soon|call me back|running late|happy birthday|thank you|on my way|good luck|well done|are "
    "you home|dinner at 8|sounds good|no problem",
    "|",
)
NOTES = _words("todo ideas books recipe travel shopping goals diary garden gifts wifi jokes")
FILES = _words("photo song invoice resume map scan video ticket form draft")
ENDINGS = {"photo": "jpg", "song": "mp3", "video": "mp4", "scan": "jpg", "map": "png"}
EVENTS = _words("Dentist Gym Standup Concert Dinner Exam Yoga Flight Review Picnic Match Class")


def person(random: Random) -> str:
    """Return a first and a last name."""
    return f"{random.choice(FIRST)} {random.choice(LAST)}"


def people(random: Random, count: int) -> list[str]:
    """Return different people with different first names, sorted."""
    return sorted(f"{first} {random.choice(LAST)}" for first in random.sample(FIRST, count))


def number(random: Random) -> str:
    """Return a telephone number."""
    return f"555{random.randrange(10_000):04d}"


def file_name(random: Random) -> str:
    """Return a file's name."""
    stem = random.choice(FILES)
    return f"{stem}{random.randrange(1, 100)}.{ENDINGS.get(stem, 'pdf')}"
