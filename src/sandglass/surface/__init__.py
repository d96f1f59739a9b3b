"""What every surface does alike: the calls of the protocols, carried out over the broker."""
