"""Flow-matching policies over chunks of actions, and π_RL, which trains them by reinforcement."""
