"""DigiRL (Bai et al., 2024, arXiv:2406.11896): imitation through learned filters, for agents that act in words."""
