"""What is asked of agents, by app. A template is added to its file's list."""

from __future__ import annotations

from palaestra.envs.android.tasks.clock import TEMPLATES as CLOCK
from palaestra.envs.android.tasks.mail import TEMPLATES as MAIL
from palaestra.envs.android.tasks.people import TEMPLATES as PEOPLE
from palaestra.envs.android.tasks.plans import TEMPLATES as PLANS
from palaestra.envs.android.tasks.settings import TEMPLATES as SETTINGS
from palaestra.envs.android.tasks.shops import TEMPLATES as SHOPS
from palaestra.envs.android.tasks.storage import TEMPLATES as STORAGE
from palaestra.envs.android.tasks.template import Template

TEMPLATES: dict[str, Template] = {
    template.name: template
    for part in (SETTINGS, PEOPLE, CLOCK, SHOPS, MAIL, STORAGE, PLANS)
    for template in part
}
"""All templates by name."""
