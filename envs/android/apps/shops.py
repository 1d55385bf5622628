"""What the shop sites sell and how each lays out its pages. No pixels here; `browser.py` shows them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

from palaestra.envs.android.content import ADJECTIVES, ITEMS
from palaestra.envs.android.palette import BLUE, GREEN, ORANGE, PINK, RED

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

SITES = {"buymore.com": BLUE, "nestly.com": GREEN, "gadgo.com": RED, "bargo.com": ORANGE, "shoply.com": PINK}
"""Host to its brand's colour."""
ENGINE = "finder.com"
"""Where words go that are no address."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a site shows its pages."""

    search: str = "top"
    """Where the search field is: "top", "bottom", or "menu", behind the icon in the site's bar."""
    grid: bool = False
    """Whether results stand two in a line."""
    price_first: bool = False
    """Whether the price stands above the name."""
    cookies: bool = False
    """Whether a banner asks at the first visit."""
    buy_high: bool = False
    """Whether the button that buys stands above the details."""


LAYOUTS = (
    Layout(),
    Layout(search="bottom", grid=True),
    Layout(search="menu", price_first=True),
    Layout(cookies=True, buy_high=True),
    Layout(search="menu", grid=True, cookies=True),
)


def layout_of(device: Device, host: str) -> Layout:
    """Return a site's layout; the version of the phone's preset moves them all on by one."""
    return LAYOUTS[(list(SITES).index(host) + device.noise.layout) % len(LAYOUTS)]


@dataclass(frozen=True, slots=True)
class Product:
    """Something for sale."""

    host: str
    """Where."""
    item: str
    """Of `content.ITEMS`."""
    rank: int
    """Its place in the results, from 0."""
    name: str
    """As shown."""
    price: int
    """Dollars."""

    @property
    def url(self) -> str:
        """Its page."""
        return f"https://{self.host}/item/{self.item}/{self.rank}"


def find(device: Device, host: str, query: str) -> list[Product]:
    """Return a site's results for a query, best first: six of the item that it names, none where it names none."""
    words = query.lower().split()
    item = next((item for item in ITEMS if item in words or item + "s" in words), None)
    if item is None:
        return []
    random: Random = device.seeded(f"{host}/{item}")
    names = random.sample(ADJECTIVES, 6)
    prices = random.sample(range(5, 100), 6)
    return [
        Product(host, item, rank, f"{name} {item}", price)
        for rank, (name, price) in enumerate(zip(names, prices, strict=True))
    ]


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, taken apart."""

    host: str
    """Such as "bargo.com"."""
    path: tuple[str, ...] = ()
    """Between the slashes."""
    query: str = ""
    """What was searched for."""


def parse(url: str) -> Address:
    """Return what a URL says."""
    parts = urlsplit(url)
    query = parse_qs(parts.query).get("q", [""])[0]
    return Address(parts.netloc, tuple(part for part in parts.path.split("/") if part), query)


def address(words: str) -> str:
    """Return the URL that words in the browser's bar lead to: a site, or the engine's results."""
    host = words.strip().lower().removeprefix("https://").removeprefix("www.").split("/")[0]
    if host in (*SITES, ENGINE):
        rest = words.strip().lower().removeprefix("https://").removeprefix("www.")[len(host) :]
        return f"https://{host}{rest or '/'}"
    return search(ENGINE, words)


def search(host: str, words: str) -> str:
    """Return the URL of a site's results."""
    return f"https://{host}/search?q={quote(words.strip())}"
