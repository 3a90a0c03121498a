"""Simulators of the vendors' APIs: what a client sees, with the limits, errors and oddities of the real ones."""
