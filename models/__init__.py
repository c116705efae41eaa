"""Memory models as Pyro model/guide pairs, one file each."""

import pyro

# Parameters belong to modules, not to Pyro's global store: a loaded checkpoint is what runs, and two submodules of the
# same name stay two. Has to be set before any PyroModule is built.
pyro.settings.set(module_local_params=True)
