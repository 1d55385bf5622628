"""Found-RL: an off-policy learner that a foundation model advises while it trains, and not once it is deployed."""
