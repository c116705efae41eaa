"""Memory models as Pyro model/guide pairs, one file each."""
