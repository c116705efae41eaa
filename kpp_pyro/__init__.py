"""The parts of Kanerva++: block memory, networks, likelihoods, data, checkpoints and figures."""
