"""What a phone says in German, and what a keyboard takes for what was typed."""

from __future__ import annotations

from difflib import get_close_matches
from random import Random

from palaestra.envs.android.content import ITEMS, NOTES, PHRASES
from palaestra.envs.android.draw import Placed

GERMAN = {
    "Settings": "Einstellungen", "Contacts": "Kontakte", "Clock": "Uhr", "Messages": "Nachrichten", "Mail": "E-Mail",
    "Files": "Dateien", "Notes": "Notizen", "Calendar": "Kalender", "Calculator": "Rechner", "Network": "Netzwerk",
    "Devices": "Geräte", "Display": "Anzeige", "Sound": "Ton", "Location": "Standort", "Time": "Zeit",
    "About": "Info", "Airplane": "Flugmodus", "Data": "Daten", "Dark theme": "Dunkel", "Rotate": "Drehen",
    "No disturb": "Nicht stören", "Vibrate": "Vibration", "Auto time": "Auto-Zeit", "Brightness": "Helligkeit",
    "Volume": "Lautstärke", "Font size": "Schriftgrösse", "Timeout": "Ruhezeit", "Small": "Klein", "Normal": "Normal",
    "Large": "Gross", "Largest": "Am grössten", "Search": "Suche", "Message": "Nachricht", "Name": "Name",
    "Phone": "Telefon", "Number": "Nummer", "NEXT": "WEITER", "SAVE": "SICHERN", "DELETE": "LÖSCHEN", "Shops": "Läden",
    "Update app?": "App erneuern?", "UPDATE": "JA", "LATER": "SPÄTER", "Rate us!": "Bewerten!", "5 STARS": "5 STERNE",
    "NO": "NEIN", "Allow access?": "Zugriff?", "ALLOW": "JA", "DENY": "NEIN", "We use cookies": "Wir nutzen Cookies",
    "ACCEPT": "JA", "REJECT": "NEIN", "50% off today!": "Heute -50%!", "SHOW": "ZEIGEN", "CLOSE": "ZU",
}  # fmt: skip
"""What is written on the phone itself to what is written there on a German one; contents stay as they are."""
_KNOWN = sorted({word for text in (*ITEMS, *NOTES, *PHRASES) for word in text.split()})


def translate(placed: list[Placed]) -> None:
    """Write German on views; each keeps what it said as its name, where it has none, for experts and accessibility."""
    for item in placed:
        view = item.view
        german = GERMAN.get(view.full.strip() or view.text)
        if german is not None:
            view.name = view.name or view.text
            view.text = german[: len(view.text)] if view.full else german
            view.full = german.center(10) if view.full else ""


def autocorrected(text: str, random: Random) -> str:
    """Return a text with one of its words replaced by another that looks like it, where there is one."""
    words = text.split(" ")
    place = random.randrange(len(words))
    near = [word for word in get_close_matches(words[place].lower(), _KNOWN, 3, 0.5) if word != words[place].lower()]
    if near:
        words[place] = near[0]
    return " ".join(words)
