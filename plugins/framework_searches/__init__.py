"""Searches: what chooses the points of a sweep."""
