"""Agents that talk to worlds of tools, and the policy-gradient family that trains them (GRPO and its relatives)."""
