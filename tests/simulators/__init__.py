"""Tests of the simulators: what every one of them does, and clients written by others against each."""
