"""Launchers: what trains the points of a sweep on this machine."""
