"""The browser: a bar for addresses and words, a search engine, and five shops of different layouts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from palaestra.envs.android.app import App, Page, field_of
from palaestra.envs.android.apps.shops import (
    ENGINE,
    SITES,
    Address,
    Layout,
    Product,
    address,
    find,
    layout_of,
    parse,
    search,
)  # fmt: skip
from palaestra.envs.android.content import ITEMS
from palaestra.envs.android.palette import BAR, BLUE, FAINT, GREEN, INK, LINE, ORANGE, PURPLE, RED, WHITE
from palaestra.envs.android.views import (
    Screen,
    View,
    button,
    buttons,
    headline,
    icon,
    label,
    row,
)  # fmt: skip

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

PACKAGE = "com.android.chrome"
MAIN = "com.google.android.apps.chrome.Main"
_GOODS = "site TEXT, item TEXT, name TEXT, price INTEGER, rank INTEGER"

app = App(
    PACKAGE, "Browser", "browser", ORANGE,
    {"cart": _GOODS, "orders": _GOODS, "history": "url TEXT", "cookies": "site TEXT"},
    "/data/data/com.android.chrome/app_chrome/Default/History",
)  # fmt: skip


def go(device: Device, url: str) -> None:
    """Open a page."""
    device.database(PACKAGE).insert("history", url=url)
    if device.noise.captcha and device.state.random.random() < device.noise.captcha:
        device.state.walled = True
    device.push("web", url=url)


def submit(device: Device, page: Page, field: str) -> None:
    """Go where the words of the field that was typed in lead."""
    words = page.texts.get(field, "").strip()
    if words and field == "q":
        go(device, search(parse(page.args["url"]).host, words))
    elif words:
        go(device, address(words))


app.submits.update(tab=submit, web=submit)


def _bar(device: Device, page: Page, host: str) -> View:
    focused, text = device.state.focus == "url", page.texts.get("url", "")
    shown = text[-12:] + "_" if focused else host
    inside = [View(2, 2, 58, text=shown or "Search or type", ink=INK if shown else FAINT)]
    if focused and text:
        inside.append(View(54, 0, 8, 8, icon="close", ink=FAINT, tap=partial(page.texts.update, url=""),
                           name="clear url"))  # fmt: skip
    field = View(1, 1, 62, 9, fill=LINE, round=4, field="url", name="url", kind="EditText", children=inside)
    return View(height=11, fill=BAR, children=[field], kind="Toolbar")


@app.screen(MAIN)
def tab(device: Device, page: Page) -> Screen:
    """Return a new tab: the bar and the shops."""
    rows = [row(host, "", "shop", partial(go, device, f"https://{host}/"), color) for host, color in SITES.items()]
    return Screen([label("Shops", FAINT), *rows], _bar(device, page, ""))


@app.screen(MAIN + "$Web")
def web(device: Device, page: Page) -> Screen:
    """Return a page of the web."""
    at = parse(page.args["url"])
    bar = _bar(device, page, at.host)
    if at.host == ENGINE:
        return Screen(_engine(device, at), bar)
    if at.host in SITES and device.state.walled:
        again = partial(device.toast, "Try again")
        return Screen([headline("ARE YOU HUMAN?", fill=RED), row("I am no robot", "", "about", again)], bar)
    if at.host not in SITES:
        return Screen([label(""), headline("Not found", fill=RED)], bar)
    return _shop(device, page, at, bar)


def _engine(device: Device, at: Address) -> list[View]:
    """Return the engine's results: the shops, those that are named first."""
    words = at.query.lower()
    hosts = sorted(SITES, key=lambda host: host.split(".")[0] not in words)
    rows = [row(host, "Shop online", "", partial(go, device, f"https://{host}/")) for host in hosts]
    return [headline("FINDER", fill=PURPLE), label(at.query, FAINT), *rows]


def _shop(device: Device, page: Page, at: Address, bar: View) -> Screen:
    layout, color = layout_of(device, at.host), SITES[at.host]
    brand = View(2, 3, 40, text=at.host.split(".")[0].upper(), ink=WHITE, name="brand")
    cart = icon("cart", partial(go, device, f"https://{at.host}/cart"), WHITE, "cart")
    cart.x = 54
    children = [brand, cart]
    if layout.search == "menu":
        lens = icon("search", lambda: page.state.update(search=True), WHITE, "lens")
        lens.x = 43
        children.append(lens)
    body: list[View] = [View(height=11, fill=color, children=children, kind="Toolbar")]
    field = field_of(device, page, "q", "Search", at.query)
    footer = field if layout.search == "bottom" else None
    if layout.search == "top" or page.state.get("search"):
        body.append(field)
    if device.state.focus == "q":
        body += _suggestions(device, at, page.texts["q"])
    elif at.path[:1] == ("search",):
        body += _results(device, page, at, layout)
    elif at.path[:1] == ("item",):
        body += _product(device, at, layout)
    elif at.path[:1] == ("cart",):
        body += _cart(device, at)
    else:
        body += _front(device, at, color)
    return Screen(body, bar, footer, dialog=_banner(device, at.host, layout))


def _banner(device: Device, host: str, layout: Layout) -> list[View]:
    """Return the cookie banner, until it was answered."""
    database = device.database(PACKAGE)
    if not layout.cookies or any(seen["site"] == host for seen in database["cookies"].values()):
        return []
    answer = partial(database.insert, "cookies", site=host)
    return [label("Cookies?"), buttons(("REJECT", answer, FAINT), ("ACCEPT", answer, GREEN))]


def _front(device: Device, at: Address, color: int) -> list[View]:
    random = device.seeded(f"front {at.host}")
    rows = [row(item.title(), "", "shop", partial(go, device, search(at.host, item)), color)
            for item in random.sample(ITEMS, 4)]  # fmt: skip
    return [headline("WELCOME", fill=color), label("Popular", FAINT), *rows]


def _suggestions(device: Device, at: Address, words: str) -> list[View]:
    """Return what the words may become: items that begin with them, which are no results."""
    found = [item for item in ITEMS if words and item.startswith(words.lower())][:3]
    return [row(item, "", "search", partial(go, device, search(at.host, item)), FAINT) for item in found]


def _results(device: Device, page: Page, at: Address, layout: Layout) -> list[View]:
    found = find(device, at.host, at.query)
    if not found:
        return [label("No results"), label(at.query, FAINT)]
    if page.state.get("sorted"):
        found.sort(key=lambda product: product.price)
    head = View(height=11, kind="LinearLayout", children=[
        View(2, 3, 30, text="Results", ink=FAINT),
        View(34, 1, 29, 9, fill=LINE, round=3, kind="Button", name="sort", tap=lambda: page.state.update(sorted=True),
             children=[View(3, 2, 26, text="Sort $")]),
    ])  # fmt: skip
    if layout.grid:
        pairs = [found[index : index + 2] for index in range(0, len(found), 2)]
        return [head, *(_pair(device, pair) for pair in pairs)]
    rows = []
    for product in found:
        name, price = product.name, f"${product.price}"
        lines = (price, name) if layout.price_first else (name, price)
        rows.append(row(*lines, "shop", partial(go, device, product.url), SITES[at.host]))
    return [head, *rows]


def _pair(device: Device, pair: list[Product]) -> View:
    cells = []
    for index, product in enumerate(pair):
        inside = [
            View(11, 2, 8, 8, icon="shop", ink=SITES[product.host], kind="ImageView"),
            View(1, 12, 31, text=product.name),
            View(1, 18, 31, text=f"${product.price}", ink=GREEN),
        ]
        cells.append(View(32 * index, 0, 31, 25, tap=partial(go, device, product.url), name=product.name,
                          kind="LinearLayout", children=inside))  # fmt: skip
    return View(height=26, children=cells, kind="LinearLayout")


def product_at(device: Device, at: Address) -> Product | None:
    """Return the product whose page an address is, None where there is none."""
    if len(at.path) != 3 or not at.path[2].isdigit():
        return None
    found = find(device, at.host, at.path[1])
    return found[int(at.path[2])] if int(at.path[2]) < len(found) else None


def _product(device: Device, at: Address, layout: Layout) -> list[View]:
    product = product_at(device, at)
    if product is None:
        return [label("Not found")]

    def add() -> None:
        device.database(PACKAGE).insert("cart", site=product.host, item=product.item, name=product.name,
                                        price=product.price, rank=product.rank)  # fmt: skip
        device.toast("In the cart")

    buy = button("ADD TO CART", add, ORANGE, name="add to cart")
    picture = View(height=24, kind="FrameLayout",
                   children=[View(28, 8, 8, 8, icon="shop", ink=SITES[at.host], kind="ImageView")])
    details = [label(product.name, name="product"), label(f"${product.price}", GREEN), label("Ships today", FAINT)]
    return [picture, buy, *details] if layout.buy_high else [picture, *details, buy]


def _cart(device: Device, at: Address) -> list[View]:
    database = device.database(PACKAGE)
    mine = [goods for goods in database["cart"].values() if goods["site"] == at.host]

    def order() -> None:
        for goods in mine:
            database.delete("cart", goods["_id"])
            database.insert("orders", **{key: value for key, value in goods.items() if key != "_id"})
        device.toast("Ordered")

    rows = []
    for goods in mine:
        end = icon("trash", partial(database.delete, "cart", goods["_id"]), RED, f"remove {goods['name']}")
        end.x = 55
        rows.append(row(goods["name"], f"${goods['price']}", "", end=end))
    if not mine:
        return [headline("CART", fill=BLUE), label("Empty", FAINT)]
    total = sum(goods["price"] for goods in mine)
    return [headline("CART", fill=BLUE), *rows, label(f"Total ${total}"), button("CHECKOUT", order, GREEN)]
