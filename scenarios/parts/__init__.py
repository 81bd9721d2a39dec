"""The few lines of software that the scenarios name."""
