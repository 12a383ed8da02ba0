"""The command `replay`: make a step that was not finite once more, and find out why."""
