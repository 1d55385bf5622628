"""The phone's apps, one file each. An app is added by its file and its line here."""

from __future__ import annotations

from palaestra.envs.android.app import App
from palaestra.envs.android.apps.browser import app as browser
from palaestra.envs.android.apps.calculator import app as calculator
from palaestra.envs.android.apps.calendar import app as calendar
from palaestra.envs.android.apps.clock import app as clock
from palaestra.envs.android.apps.contacts import app as contacts
from palaestra.envs.android.apps.files import app as files
from palaestra.envs.android.apps.launcher import app as launcher
from palaestra.envs.android.apps.mail import app as mail
from palaestra.envs.android.apps.messages import app as messages
from palaestra.envs.android.apps.notes import app as notes
from palaestra.envs.android.apps.settings import app as settings

APPS: dict[str, App] = {
    known.package: known
    for known in (
        launcher, settings, contacts, clock, messages, browser, mail, files, notes, calendar, calculator,
    )
}  # fmt: skip
"""By package. The launcher shows them in this order."""
LAUNCHER = launcher.package
"""The home screen's package."""
