"""Tasks on the web: DigiRL's ladder of shops (go, search, open the first result), carts and orders."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from palaestra.envs.android.actions import Action
from palaestra.envs.android.apps.shops import ENGINE, SITES, Address, Product, find, parse
from palaestra.envs.android.content import ADJECTIVES, ITEMS
from palaestra.envs.android.device import Device
from palaestra.envs.android.oracle import Hand
from palaestra.envs.android.storage import Row
from palaestra.envs.android.tasks.people import same
from palaestra.envs.android.tasks.template import Goal, Oracle, Params, Split, Template, choice

PACKAGE = "com.android.chrome"
_GOODS = [(host, item) for host in SITES for item in ITEMS]
_QUERIES = [f"{adjective} {item}".lower() for adjective in ADJECTIVES for item in ITEMS]
Which = Callable[[Device, Params], Product]


def _site(random: Random, split: Split) -> Params:
    return {"host": choice(random, list(SITES), split, "sites")}


def _item(random: Random, split: Split) -> Params:
    host, item = choice(random, _GOODS, split, "goods")
    return {"host": host, "item": item}


def _words(random: Random, split: Split) -> Params:
    return {"words": choice(random, _QUERIES, split, "words")}


def at(device: Device) -> Address | None:
    """Return where on the web the browser is, None where it is not seen or shows a new tab."""
    page = device.page
    seen = page.package == PACKAGE and page.screen == "web"
    return parse(page.args["url"]) if seen else None


def _first(device: Device, params: Params) -> Product:
    return find(device, params["host"], params["item"])[0]


def _cheapest(device: Device, params: Params) -> Product:
    return min(find(device, params["host"], params["item"]), key=lambda product: product.price)


def _arrived(device: Device, params: Params) -> bool:
    here = at(device)
    return here is not None and here.host == params["host"] and not here.path


def _searched(device: Device, params: Params) -> bool:
    here = at(device)
    return here is not None and (here.host, here.path) == (params["host"], ("search",)) and same(
        here.query, params["item"]
    )


def _opened(device: Device, params: Params) -> bool:
    here = at(device)
    product = _first(device, params)
    return here is not None and here.host == params["host"] and here.path == ("item", product.item, str(product.rank))


def _goods(device: Device, params: Params, table: str) -> list[Row]:
    rows = device.table(PACKAGE, table).values()
    return [row for row in rows if row["site"] == params["host"] and row["item"] == params["item"]]


def _bought(table: str, which: Which) -> Goal:
    def goal(device: Device, params: Params) -> bool:
        return [row["rank"] for row in _goods(device, params, table)] == [which(device, params).rank]

    return goal


def _banner(hand: Hand) -> Action | None:
    return hand.tap("REJECT") if hand.device.shown.dialog else None


def _search(hand: Hand, params: Params) -> Action | None:
    """Come from anywhere in the browser to a site's results."""
    here = at(hand.device)
    if here is None or here.host == ENGINE:
        return hand.tap(params["host"])
    if here.host != params["host"]:
        return None
    if same(hand.device.page.texts.get("q"), params["item"]):
        return Action("PRESS_ENTER") if hand.device.state.focus == "q" else hand.tap("Search")
    return hand.write("q", "Search", params["item"]) or hand.tap("lens")


def _go(hand: Hand, params: Params) -> Action | None:
    return hand.route(PACKAGE, {"tab": lambda: hand.tap(params["host"])})


def _searching(hand: Hand, params: Params) -> Action | None:
    step = lambda: _banner(hand) or _search(hand, params)  # noqa: E731
    return hand.route(PACKAGE, {"tab": step, "web": step})


def _buying(which: Which, order: bool = False) -> Oracle:
    """Return an oracle that puts a product into the cart, and perhaps orders it."""

    def step(hand: Hand, params: Params) -> Action | None:
        device, product = hand.device, which(hand.device, params)
        here = at(device)
        if _banner(hand):
            return _banner(hand)
        if here is not None and here.host == params["host"]:
            if order and _goods(device, params, "cart"):
                return hand.tap("CHECKOUT" if here.path == ("cart",) else "cart")
            if here.path == ("item", product.item, str(product.rank)):
                return hand.tap("add to cart")
            if here.path == ("search",) and same(here.query, params["item"]) and device.state.focus != "q":
                return hand.tap(product.name)
            if here.path[:1] in (("item",), ("cart",)):
                return None
        return _search(hand, params)

    def oracle(hand: Hand, params: Params) -> Action | None:
        return hand.route(PACKAGE, {"tab": lambda: step(hand, params), "web": lambda: step(hand, params)})

    return oracle


def _on_engine(device: Device, params: Params) -> bool:
    here = at(device)
    return here is not None and here.host == ENGINE and same(here.query, params["words"])


def _ask_engine(hand: Hand, params: Params) -> Action | None:
    def step() -> Action | None:
        if not same(hand.device.page.texts.get("url"), params["words"]):
            return hand.write("url", "url", params["words"])
        return Action("PRESS_ENTER") if hand.device.state.focus == "url" else hand.tap("url")

    return hand.route(PACKAGE, {"tab": step})


_CART = (f"{PACKAGE}/cart/",)
TEMPLATES = [
    Template("shop-go", "Go to {host}", _site, _arrived, _go, family="web-shop",
             wordings=("Open the site {host}", "Visit {host}", "Show me the shop {host}")),
    Template("shop-search", 'Go to {host}, search for "{item}"', _item, _searched, _searching, level=2,
             family="web-shop"),
    Template("shop-open", 'Go to {host}, search for "{item}", and open the first result', _item, _opened,
             _buying(_first), level=2, family="web-shop"),
    Template("shop-first", 'Go to {host}, search for "{item}", and add the first result to the cart', _item,
             _bought("cart", _first), _buying(_first), touches=_CART, level=3, family="web-shop"),
    Template("shop-cheapest", 'Go to {host} and add the cheapest "{item}" to the cart', _item,
             _bought("cart", _cheapest), _buying(_cheapest), touches=_CART, level=3, family="web-shop"),
    Template("shop-buy", 'Go to {host} and order the first result for "{item}"', _item, _bought("orders", _first),
             _buying(_first, order=True), touches=(f"{PACKAGE}/orders/",), level=3, family="web-shop", held_out=True),
    Template("web-search", 'Search the web for "{words}"', _words, _on_engine, _ask_engine, level=2,
             family="web-shop"),
]  # fmt: skip
