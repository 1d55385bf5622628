"""LeRobot's π0, π0.5 and SmolVLA: their checkpoints read strictly and written back, their networks as flow networks."""
