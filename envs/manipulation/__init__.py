"""Robot manipulation: ManiSkill's tasks, experts that solve them, and recorded demonstrations."""
