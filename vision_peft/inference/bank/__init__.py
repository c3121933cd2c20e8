"""Many adapters on one frozen backbone: a mixed batch is answered in one forward."""
