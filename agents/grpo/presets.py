"""Members of the family by name: data, each as its paper or reference code has it, small numbers apart."""

from __future__ import annotations

import difflib
from dataclasses import replace

from palaestra.agents.grpo.objective import Objective

_PLAIN = Objective(kl="none", kl_weight=0.0)
PRESETS: dict[str, Objective] = {
    "vrag": Objective(),  # GRPO of VRAG: clip 0.2, k3 0.01
    "grpo": Objective(kl_weight=0.04),  # Shao et al. 2024
    "dr_grpo": replace(_PLAIN, advantage="dr_grpo", aggregate="constant"),  # Liu et al. 2025
    "dapo": replace(_PLAIN, high=0.28, aggregate="token"),  # Yu et al. 2025; dynamic sampling is the curriculum's
    "gspo": replace(_PLAIN, ratio="sequence", low=3e-4, high=4e-4),  # Zheng et al. 2025
    "luspo": replace(_PLAIN, ratio="sequence", low=2e-3, high=2.5e-3, aggregate="sum"),  # 2026, as in TRL
    "rloo": replace(_PLAIN, advantage="rloo", ratio="product"),  # Ahmadian et al. 2024, as in TRL: one action
    "ppo": replace(_PLAIN, advantage="gae", aggregate="token"),  # Schulman et al. 2017, token by token, with a critic
    "dual": replace(_PLAIN, clip="dual"),  # Ye et al. 2020
    "reinforce++": Objective(advantage="reinforce++", aggregate="token", kl="none", kl_weight=0.01),  # Hu et al. 2025
    "reinforce++-baseline": Objective(advantage="reinforce++-baseline", aggregate="token", kl="k2"),
    "lite_ppo": replace(_PLAIN, advantage="lite_ppo", aggregate="token"),  # Liu et al. 2025, "Tricks or Traps"
    "gdpo": Objective(advantage="gdpo"),  # each part of the reward normalised alone
    "gigpo": Objective(advantage="gigpo"),  # Feng et al. 2025: step groups of equal anchors
    "cispo": replace(_PLAIN, clip="cispo", high=5.0, aggregate="token"),  # MiniMax-M1
    "sapo": replace(_PLAIN, clip="sapo"),
    "rapo": Objective(kl="forward"),  # forward KL: stays where the reference is, explores beyond it
}


def preset(name: str) -> Objective:
    """Return a member of the family; a wrong name gets the nearest right ones."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, 3, 0.4)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise LookupError(f"there is no objective {name!r}.{hint} Objectives: {', '.join(PRESETS)}.")
