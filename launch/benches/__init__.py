"""What `palaestra bench` measures, each beside its peers in the same run."""
