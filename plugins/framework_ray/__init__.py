"""The launcher `ray`: points of a sweep as tasks of Ray."""
