"""The measured claims of the READMEs, each a command: both sides of a ratio run in turn, on the same work, in one run."""
